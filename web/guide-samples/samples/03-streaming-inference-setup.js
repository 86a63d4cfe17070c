async function setupStreamingModel() {
  // Create streaming handler
  const streaming = new WebGPUStreamingInference({
    modelPath: 'https://example.com/models/llama-7b',
    config: {
      quantization: "int4",
      optimizeKVCache: true,
      latencyOptimized: true,
      adaptiveBatchSize: true
    }
  });
  
  // Define a callback function for tokens
  function handleToken(token, isLast) {
    document.getElementById('output').textContent += token;
    if (isLast) {
      console.log("Generation complete");
    }
  }
  
  // Run streaming generation
  const prompt = "Explain how WebGPU streaming works in browsers";
  
  streaming.generate({
    prompt: prompt,
    maxTokens: 100,
    temperature: 0.7,
    callback: handleToken
  });
}
