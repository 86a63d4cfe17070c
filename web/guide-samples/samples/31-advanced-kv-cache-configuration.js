// Optimizing KV cache for different use cases
function optimizeKVCache(contextLength, memoryConstraint, modelSize) {
  // Base configuration
  const baseConfig = {
    optimizeKVCache: true
  };
  
  // Determine appropriate bit precision
  let bits;
  if (memoryConstraint === "severe") {
    bits = 2;  // Ultra-low precision
  } else if (memoryConstraint === "moderate") {
    bits = 3;  // Good balance
  } else if (contextLength > 8192) {
    bits = 3;  // Good for very long context
  } else {
    bits = 4;  // Standard low precision
  }
  
  // Scale group size based on model size
  const groupSize = modelSize === "large" ? 128 :
                   modelSize === "medium" ? 64 : 32;
  
  // Progressive precision 
  const useProgressivePrecision = contextLength > 4096;
  
  // Enable attention compression for very long contexts
  const useAttentionCompression = contextLength > 16384;
  
  // Configure the KV cache
  const kvCacheConfig = {
    bits: bits,
    groupSize: groupSize,
    maxSeqLen: Math.max(contextLength * 1.5, 2048),  // Allow for growth
    progressivePrecision: useProgressivePrecision
  };
  
  // Add attention compression if needed
  if (useAttentionCompression) {
    kvCacheConfig.attentionCompression = {
      enabled: true,
      compressionRatio: contextLength > 32768 ? 8 : 4,
      compressTokensOlderThan: 4096
    };
  }
  
  return {
    ...baseConfig,
    kvCacheConfig: kvCacheConfig
  };
}

// Example usage
const longContextConfig = optimizeKVCache(32768, "moderate", "large");
console.log("Optimized KV cache for long context:", longContextConfig);

// Create streaming handler with optimized KV cache
const streaming = new WebGPUStreamingInference({
  modelPath: 'models/llama-7b-32k',
  config: {
    quantization: "int3",
    ...longContextConfig
  }
});
