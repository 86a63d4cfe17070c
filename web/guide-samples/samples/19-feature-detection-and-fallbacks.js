// Configure fallback behavior
const accelerator = new WebPlatformAccelerator({
  modelPath: 'models/llama-7b',
  modelType: 'text',
  config: {
    // Fallback preferences (in order)
    fallbackPreference: ["webgpu", "webnn", "webgl", "wasm"],
    
    // Specific fallback configurations
    fallbacks: {
      webgl: {
        precision: "int8",
        optimizations: ["textureBasedCompute", "packing"]
      },
      wasm: {
        threads: true,
        simd: true,
        memoryGrowthStrategy: "conservative"
      }
    }
  }
});
