// Create streaming handler
const streaming = new WebGPUStreamingInference({
  modelPath: 'models/llama-7b',
  config: { 
    quantization: "int4",
    computeTransferOverlap: true,  // Enable compute/transfer overlap
    tokenPredictionEnabled: true,  // Enable advanced token prediction
    adaptiveBatchSize: true        // Dynamically adjust batch size
  }
});

// Define callback
function tokenCallback(token, isLast) {
  console.log(token);
  document.getElementById('output').textContent += token;
  
  if (isLast) {
    console.log("Generation complete");
  }
}

// Run generation
streaming.generate({
  prompt: "Explain streaming inference",
  maxTokens: 100,
  callback: tokenCallback
});
