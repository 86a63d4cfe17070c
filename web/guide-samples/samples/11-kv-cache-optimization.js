// KV cache configuration example
const kvCacheConfig = {
  // 2-bit, 3-bit, or 4-bit precision
  bits: 3,
  
  // Number of values to group together for quantization
  groupSize: 64,
  
  // Maximum sequence length
  maxSeqLen: 8192,
  
  // Progressive precision (higher precision for recent tokens)
  progressivePrecision: true
};

// Creating optimized KV cache
const streamingConfig = {
  quantization: "int4",
  optimizeKVCache: true,
  kvCacheConfig: kvCacheConfig,
  adaptiveBatchSize: true
};

const streaming = new WebGPUStreamingInference({
  modelPath: 'models/llama-7b',
  config: streamingConfig
});
