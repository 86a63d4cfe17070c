async function setupModel() {
  // Get optimal configuration based on browser capabilities
  const config = await getOptimalConfig('llama-7b', 'text');
  
  // Create accelerator with automatic detection
  const accelerator = new WebPlatformAccelerator({
    modelPath: 'https://example.com/models/llama-7b',
    modelType: 'text',
    config: config,
    autoDetect: true
  });
  
  // Create inference endpoint
  const endpoint = accelerator.createEndpoint();
  
  // Run inference
  const result = await endpoint({
    text: "Explain the concept of WebGPU acceleration"
  });
  
  // Display result
  document.getElementById('output').textContent = result;
}
