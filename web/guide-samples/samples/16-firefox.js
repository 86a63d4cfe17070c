// Firefox optimized configuration
const firefoxConfig = {
  shaderPrecompilation: true, 
  computeShaders: true,
  workgroupSize: [256, 1, 1],  // Firefox prefers larger workgroups
  parallelCompilation: false,  // Can be unstable in Firefox
  quantization: "int3"
};

// Firefox performs especially well with audio models
if (modelType === "audio") {
  firefoxConfig.computeShaderOptimization = "audio";
}
