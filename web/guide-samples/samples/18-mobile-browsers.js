// Mobile optimization configuration
const mobileConfig = {
  quantization: "int2",         // Ultra-low precision for memory
  progressiveLoading: true,     // Critical for mobile
  optimizeKVCache: true,        // Essential for memory efficiency
  reducedModelSize: true,       // Use smaller model variants
  adaptiveBatchSize: true,      // Adjust based on device performance
  lowLatencyMode: false,        // Prioritize efficiency over latency
  memoryOptimizedMode: true     // Aggressive memory optimization
};
