// Run comprehensive benchmark
const benchmark = await WebPlatformAccelerator.runBenchmark({
  modelPath: 'models/llama-7b',
  modelType: 'text',
  
  // Test different precision options
  precisions: ["int2", "int3", "int4", "int8"],
  
  // Test browser features
  features: {
    shaderPrecompilation: [true, false],
    computeShaders: [true, false],
    parallelLoading: [true, false]
  },
  
  // Run multiple prompt lengths
  promptLengths: [10, 100, 1000],
  
  // Generate different lengths
  generateLengths: [10, 50, 200],
  
  // Repeat tests for statistical significance
  iterations: 3
});

console.log("Benchmark Results:", benchmark);

// Detailed metrics
console.log("Detailed Metrics by Precision:");
for (const precision of benchmark.precisions) {
  console.log(`\n${precision} Precision:`);
  console.log(`- Time to First Token: ${benchmark.results[precision].timeToFirstToken}ms`);
  console.log(`- Tokens Per Second: ${benchmark.results[precision].tokensPerSecond}`);
  console.log(`- Memory Usage: ${benchmark.results[precision].memoryMB}MB`);
  console.log(`- Peak Memory: ${benchmark.results[precision].peakMemoryMB}MB`);
  console.log(`- Optimal Config: ${JSON.stringify(benchmark.results[precision].optimalConfig)}`);
}

// Generate performance recommendation
const recommendation = benchmark.getRecommendation();
console.log("\nRecommended Configuration:");
console.log(recommendation);
