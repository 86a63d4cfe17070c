// Enable debug mode for streaming
const streamingDebug = new WebGPUStreamingInference({
  modelPath: 'models/llama-7b',
  config: {
    quantization: "int4",
    debug: true,      // Enable debug mode
    logLevel: "debug", // Set log level
    debugInference: true, // Debug inference steps
    debugTokens: true     // Debug token generation
  }
});

// Register debug callbacks
streamingDebug.setDebugCallbacks({
  onInferenceStep: (step) => {
    console.log(`Inference step: ${step.name}, time: ${step.timeMs}ms`);
  },
  onMemoryAllocation: (allocation) => {
    console.log(`Memory allocation: ${allocation.sizeBytes} bytes for ${allocation.purpose}`);
  },
  onTokenGeneration: (tokenInfo) => {
    console.log(`Token generated: "${tokenInfo.token}" (id: ${tokenInfo.tokenId}), probability: ${tokenInfo.probability}`);
  },
  onError: (error) => {
    console.error(`Error in streaming: ${error.message}`, error);
  }
});

// Debug generation
try {
  const result = await streamingDebug.generate({
    prompt: "Debug test prompt",
    maxTokens: 20,
    callback: (token) => {} // Regular callback
  });
  
  // Get debug information
  const debugInfo = streamingDebug.getDebugInfo();
  console.log("Debug Information:", debugInfo);
  
  // Export detailed log
  const debugLog = streamingDebug.exportDebugLog();
  console.log("Full Debug Log:", debugLog);
  
} catch (error) {
  console.error("Generation failed:", error);
}
