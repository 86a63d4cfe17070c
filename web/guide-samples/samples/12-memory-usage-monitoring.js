// Request memory measurement during generation
const memoryUsage = await streaming.measureMemoryUsage({
  prompt: "Test prompt for memory measurement",
  maxTokens: 50
});

console.log("Memory Usage Statistics:");
console.log(`- Peak WebGPU Buffer Memory: ${memoryUsage.peakWebGPUBufferMB} MB`);
console.log(`- KV Cache Size: ${memoryUsage.kvCacheMB} MB`);
console.log(`- Model Weight Memory: ${memoryUsage.modelWeightsMB} MB`);
console.log(`- Total Estimated Memory: ${memoryUsage.totalEstimatedMB} MB`);

// Memory efficiency with different precision
console.log(`- Memory reduction: ${memoryUsage.memoryReductionPercent}%`);
console.log(`- Original FP16 equivalent memory: ${memoryUsage.originalFP16MB} MB`);
