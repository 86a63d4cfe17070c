// Adaptive precision configuration
const adaptivePrecisionConfig = {
  // Enable mixed precision
  mixedPrecision: true,
  
  // Layer-specific precision assignments
  layerPrecisions: {
    "embedding": 8,    // Higher precision for embedding
    "attention": 3,    // Ultra-low precision for attention
    "feedforward": 4,  // Standard low precision for FF
    "lmhead": 8        // Higher precision for output
  },
  
  // Dynamic adaptation based on token importance
  dynamicAdaptation: true,
  
  // KV cache mixed precision (higher for recent tokens)
  kvCacheMixedPrecision: true
};

// Create streaming handler with adaptive precision
const streaming = new WebGPUStreamingInference({
  modelPath: 'models/llama-7b',
  config: {
    quantization: "adaptive",
    adaptivePrecisionConfig: adaptivePrecisionConfig,
    optimizeKVCache: true
  }
});
