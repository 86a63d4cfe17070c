// Enable performance profiling
const profilingConfig = {
  enableProfiling: true,
  profilingDetail: "high",
  collectLayerTiming: true,
  trackMemoryUsage: true,
  reportIntervalMs: 1000
};

// Create streaming with profiling
const streaming = new WebGPUStreamingInference({
  modelPath: 'models/llama-7b',
  config: {
    quantization: "int4",
    ...profilingConfig
  }
});

// Run with profiling callback
streaming.generate({
  prompt: "Test prompt for profiling",
  maxTokens: 100,
  profilingCallback: (profilingData) => {
    console.log("Performance profile update:", profilingData);
    
    // Add to visualization (example)
    addToPerformanceChart(profilingData);
  }
});

// Get complete profile after generation
const profile = await streaming.getPerformanceProfile();

// Analyze profile to find bottlenecks
const bottlenecks = profile.findBottlenecks();
console.log("Performance bottlenecks:", bottlenecks);

// Get optimization suggestions
const suggestions = profile.generateOptimizationSuggestions();
console.log("Optimization suggestions:", suggestions);

// Apply suggested optimizations
const optimizedConfig = suggestions.apply({
  modelPath: 'models/llama-7b',
  modelType: 'text'
});

// Create new streaming handler with optimized config
const optimizedStreaming = new WebGPUStreamingInference({
  modelPath: 'models/llama-7b',
  config: optimizedConfig
});
