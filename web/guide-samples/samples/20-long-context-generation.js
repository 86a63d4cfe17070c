// Configure for long context generation
const longContextConfig = {
  quantization: "int3",        // Lower precision for memory efficiency
  optimizeKVCache: true,
  kvCacheConfig: {
    bits: 3,                   // Ultra-low precision KV cache
    maxSeqLen: 32768,          // Very long context
    progressivePrecision: true // Higher precision for recent tokens
  },
  contextCompressionEnabled: true, // Enable attention compression
  contextCompressionRatio: 4,     // 4:1 compression for old tokens
  streamingChunkSize: 4096        // Process in manageable chunks
};

// Create streaming handler for long context
const longContextStreaming = new WebGPUStreamingInference({
  modelPath: 'models/llama-7b-32k',
  config: longContextConfig
});

// Run with a long document
const document = await fetch('/api/long-document').then(r => r.text());
longContextStreaming.generate({
  prompt: `Summarize this document:\n\n${document}`,
  maxTokens: 500,
  callback: (token) => { /* handle token */ }
});
