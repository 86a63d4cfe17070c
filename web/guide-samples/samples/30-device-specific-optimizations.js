// Optimize based on device class
function getDeviceClass() {
  // Check for device memory
  const deviceMemory = navigator.deviceMemory || 4; // fallback to 4GB
  
  // Check for CPU cores
  const cpuCores = navigator.hardwareConcurrency || 4; // fallback to 4 cores
  
  // GPU detection (simplified example)
  let gpuTier = "unknown";
  if (window.gpu) {
    const adapter = await navigator.gpu.requestAdapter();
    if (adapter) {
      const desc = await adapter.requestAdapterInfo();
      // Simple GPU classification
      if (desc.description.includes("NVIDIA")) {
        gpuTier = "high";
      } else if (desc.description.includes("AMD") || desc.description.includes("Intel")) {
        gpuTier = "medium";
      } else {
        gpuTier = "low";
      }
    }
  }
  
  // Classify device
  if (deviceMemory >= 8 && cpuCores >= 8 && gpuTier === "high") {
    return "high-end";
  } else if (deviceMemory >= 4 && cpuCores >= 4 && gpuTier !== "low") {
    return "mid-range";
  } else {
    return "low-end";
  }
}

// Create device-optimized configuration
function createOptimizedConfig(modelType, deviceClass) {
  const baseConfig = {
    streamingInference: true,
    optimizeKVCache: true,
    adaptiveBatchSize: true
  };
  
  // Add device-specific optimizations
  switch (deviceClass) {
    case "high-end":
      return {
        ...baseConfig,
        quantization: modelType === "multimodal" ? "int4" : "int3",
        parallelLoading: true,
        shaderPrecompilation: true,
        computeShaders: true,
        workgroupSize: [256, 1, 1]
      };
      
    case "mid-range":
      return {
        ...baseConfig,
        quantization: "int4",
        parallelLoading: modelType === "multimodal",
        shaderPrecompilation: true,
        computeShaders: true,
        workgroupSize: [128, 1, 1]
      };
      
    case "low-end":
      return {
        ...baseConfig,
        quantization: "int2",  // Ultra-low precision for memory
        memoryOptimizedMode: true,
        shaderPrecompilation: false, // Can be slow on low-end
        progressiveLoading: true,
        reducedModelSize: true
      };
      
    default:
      return baseConfig;
  }
}

// Usage
const deviceClass = await getDeviceClass();
console.log(`Detected device class: ${deviceClass}`);

const optimizedConfig = createOptimizedConfig("text", deviceClass);
console.log("Optimized configuration:", optimizedConfig);

// Create accelerator with optimized config
const accelerator = new WebPlatformAccelerator({
  modelPath: 'models/llama-7b',
  modelType: 'text',
  config: optimizedConfig,
  autoDetect: true  // Will still auto-detect, but with optimized defaults
});
