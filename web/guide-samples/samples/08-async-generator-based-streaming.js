// Use the streaming endpoint with async iterator
const streamingEndpoint = createStreamingEndpoint({
  modelPath: 'models/llama-7b',
  config: { quantization: "int4" }
});

async function generateStream() {
  const prompt = "Explain streaming inference";
  const stream = streamingEndpoint.generateStream({
    prompt: prompt,
    maxTokens: 100
  });
  
  // Use the async iterator
  const output = document.getElementById('output');
  for await (const token of stream) {
    output.textContent += token;
  }
  
  console.log("Generation complete");
}
