async function setupUnifiedStreamingModel() {
  // Create accelerator with streaming enabled
  const accelerator = new WebPlatformAccelerator({
    modelPath: 'https://example.com/models/llama-7b',
    modelType: 'text',
    config: {
      streamingInference: true,
      quantization: 4,
      kvCacheOptimization: true
    },
    autoDetect: true
  });
  
  // Create streaming endpoint
  const endpoint = accelerator.createEndpoint();
  
  // Define token callback
  function handleToken(token, isLast) {
    document.getElementById('output').textContent += token;
  }
  
  // Run streaming inference
  await endpoint({
    text: "Explain WebGPU streaming inference",
    maxTokens: 100,
    temperature: 0.7,
    callback: handleToken
  });
}
