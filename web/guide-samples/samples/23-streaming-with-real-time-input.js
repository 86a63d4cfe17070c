// Interactive chat implementation
class InteractiveStreamingChat {
  constructor(modelPath) {
    this.modelPath = modelPath;
    this.streaming = null;
    this.conversation = [];
    this.isGenerating = false;
    this.stopRequested = false;
  }
  
  async initialize() {
    this.streaming = new WebGPUStreamingInference({
      modelPath: this.modelPath,
      config: {
        quantization: "int4",
        optimizeKVCache: true,
        adaptiveBatchSize: true
      }
    });
  }
  
  async sendMessage(userMessage) {
    if (this.isGenerating) {
      return { error: "Already generating a response" };
    }
    
    // Add user message to conversation
    this.conversation.push({ role: "user", content: userMessage });
    
    // Format conversation for the model
    const prompt = this.formatConversation();
    
    // Set up for generation
    this.isGenerating = true;
    this.stopRequested = false;
    let responseText = "";
    
    // Define token callback
    const handleToken = (token, isLast) => {
      responseText += token;
      
      // Call onToken callback if provided
      if (this.onToken) {
        this.onToken(token, isLast);
      }
      
      if (isLast || this.stopRequested) {
        this.isGenerating = false;
        
        // Add assistant response to conversation
        this.conversation.push({ role: "assistant", content: responseText });
        
        // Call onComplete callback if provided
        if (this.onComplete) {
          this.onComplete(responseText);
        }
      }
    };
    
    // Generate response
    try {
      await this.streaming.generate({
        prompt: prompt,
        maxTokens: 1000,
        temperature: 0.7,
        callback: handleToken
      });
      
      return { success: true };
    } catch (error) {
      this.isGenerating = false;
      return { error: error.message };
    }
  }
  
  stopGeneration() {
    if (this.isGenerating) {
      this.stopRequested = true;
      this.streaming.stopGeneration();
      return true;
    }
    return false;
  }
  
  formatConversation() {
    // Format conversation for the model
    let formattedPrompt = "";
    
    for (const message of this.conversation) {
      if (message.role === "user") {
        formattedPrompt += `User: ${message.content}\n\n`;
      } else if (message.role === "assistant") {
        formattedPrompt += `Assistant: ${message.content}\n\n`;
      }
    }
    
    formattedPrompt += "Assistant: ";
    return formattedPrompt;
  }
  
  // Set callbacks
  setCallbacks({ onToken, onComplete }) {
    this.onToken = onToken;
    this.onComplete = onComplete;
  }
}

// Usage example
const chat = new InteractiveStreamingChat('models/llama-7b-chat');
await chat.initialize();

// Set up callbacks
chat.setCallbacks({
  onToken: (token) => {
    document.getElementById('response').textContent += token;
  },
  onComplete: (response) => {
    console.log("Complete response:", response);
  }
});

// Send a message
document.getElementById('sendButton').addEventListener('click', async () => {
  const userMessage = document.getElementById('userInput').value;
  document.getElementById('response').textContent = "";
  
  const result = await chat.sendMessage(userMessage);
  if (result.error) {
    console.error(result.error);
  }
});

// Stop generation button
document.getElementById('stopButton').addEventListener('click', () => {
  chat.stopGeneration();
});
