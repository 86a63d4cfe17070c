// Multimodal (text + image) streaming
const multimodalConfig = {
  quantization: "int4",
  parallelLoading: true,      // Load components in parallel
  progressiveLoading: true,   // Critical for multimodal
  optimizeKVCache: true,
  computeTransferOverlap: true,  // Enable compute/transfer overlap
  tokenPredictionEnabled: true,  // Enable advanced token prediction
  visionModelPath: "models/clip-vit-base"  // Vision encoder
};

// Create multimodal streaming handler
const multimodalStreaming = new WebGPUStreamingInference({
  modelPath: 'models/llava-7b',
  config: multimodalConfig
});

// Process image
const imageData = await loadAndProcessImage("example.jpg");

// Run streaming generation with image
multimodalStreaming.generateWithImage({
  prompt: "Describe this image in detail",
  imageData: imageData,
  maxTokens: 300,
  callback: (token) => { /* handle token */ }
});
