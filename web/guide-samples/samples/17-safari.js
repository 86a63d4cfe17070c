// Safari optimized configuration
const safariConfig = {
  shaderPrecompilation: false,  // Not fully supported
  computeShaders: false,        // Limited support
  fallbackToWebGL: true,        // Use WebGL when needed
  parallelLoading: true,        // Safari benefits from this
  quantization: "int8",         // Higher precision for stability
  metalOptimizations: true      // Safari-specific Metal optimizations
};
