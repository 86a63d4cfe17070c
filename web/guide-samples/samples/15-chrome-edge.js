// Chrome/Edge optimized configuration
const chromeConfig = {
  shaderPrecompilation: true,
  computeShaders: true,
  workgroupSize: [128, 1, 1],  // Optimal for Chrome/Edge
  parallelCompilation: true,
  quantization: "int3"  // Chrome/Edge perform well with 3-bit
};
