// streaming-llm-element.js
import { WebPlatformAccelerator } from '@ipfs-accelerate/web-platform';

class StreamingLLMElement extends HTMLElement {
  constructor() {
    super();
    this.attachShadow({ mode: 'open' });
    
    // Create initial DOM structure
    this.shadowRoot.innerHTML = `
      <style>
        :host {
          display: block;
          font-family: system-ui, -apple-system, sans-serif;
        }
        
        .container {
          max-width: 800px;
          margin: 0 auto;
        }
        
        textarea {
          width: 100%;
          height: 120px;
          padding: 10px;
          margin-bottom: 10px;
          border-radius: 4px;
          border: 1px solid #ccc;
        }
        
        .buttons {
          display: flex;
          gap: 10px;
          margin-bottom: 20px;
        }
        
        button {
          padding: 8px 16px;
          border-radius: 4px;
          border: none;
          background-color: #4caf50;
          color: white;
          cursor: pointer;
        }
        
        button:disabled {
          background-color: #cccccc;
          cursor: not-allowed;
        }
        
        .output {
          border: 1px solid #ddd;
          border-radius: 4px;
          padding: 15px;
          min-height: 200px;
          max-height: 400px;
          overflow-y: auto;
          background-color: #f9f9f9;
          white-space: pre-wrap;
          margin-bottom: 15px;
        }
        
        .error {
          color: #d32f2f;
          margin: 10px 0;
        }
        
        .status {
          color: #2e7d32;
          font-size: 0.9em;
        }
      </style>
      
      <div class="container">
        <form>
          <textarea placeholder="Enter your prompt here..."></textarea>
          <div class="buttons">
            <button type="submit">Generate</button>
            <button type="button" class="stop-btn" disabled>Stop</button>
          </div>
        </form>
        
        <div class="output">Output will appear here</div>
        <div class="error" hidden></div>
        <div class="status" hidden></div>
      </div>
    `;
    
    // Get DOM elements
    this.textarea = this.shadowRoot.querySelector('textarea');
    this.form = this.shadowRoot.querySelector('form');
    this.generateBtn = this.shadowRoot.querySelector('button[type="submit"]');
    this.stopBtn = this.shadowRoot.querySelector('.stop-btn');
    this.outputElement = this.shadowRoot.querySelector('.output');
    this.errorElement = this.shadowRoot.querySelector('.error');
    this.statusElement = this.shadowRoot.querySelector('.status');
    
    // Bind methods
    this.handleSubmit = this.handleSubmit.bind(this);
    this.handleStop = this.handleStop.bind(this);
    this.handleToken = this.handleToken.bind(this);
    
    // Add event listeners
    this.form.addEventListener('submit', this.handleSubmit);
    this.stopBtn.addEventListener('click', this.handleStop);
    
    // Component state
    this.accelerator = null;
    this.endpoint = null;
    this.isGenerating = false;
    this.modelReady = false;
  }
  
  static get observedAttributes() {
    return ['model-path', 'model-type', 'max-tokens', 'temperature'];
  }
  
  connectedCallback() {
    // Initialize when component is connected
    this.initializeModel();
  }
  
  attributeChangedCallback(name, oldValue, newValue) {
    if (oldValue === newValue) return;
    
    if (name === 'model-path' || name === 'model-type') {
      this.initializeModel();
    }
  }
  
  disconnectedCallback() {
    // Release resources
    this.form.removeEventListener('submit', this.handleSubmit);
    this.stopBtn.removeEventListener('click', this.handleStop);
  }
  
  async initializeModel() {
    const modelPath = this.getAttribute('model-path');
    const modelType = this.getAttribute('model-type') || 'text';
    
    if (!modelPath) return;
    
    try {
      this.generateBtn.disabled = true;
      this.outputElement.textContent = "Loading model...";
      
      this.accelerator = new WebPlatformAccelerator({
        modelPath: modelPath,
        modelType: modelType,
        config: {
          streamingInference: true,
          quantization: "int4"
        },
        autoDetect: true
      });
      
      this.endpoint = this.accelerator.createEndpoint();
      this.modelReady = true;
      
      this.generateBtn.disabled = false;
      this.outputElement.textContent = "Model loaded. Ready to generate.";
      
      this.statusElement.textContent = `Model loaded: ${modelPath.split('/').pop()}`;
      this.statusElement.hidden = false;
      
      // Dispatch model ready event
      this.dispatchEvent(new CustomEvent('model-ready', {
        bubbles: true,
        composed: true
      }));
    } catch (err) {
      this.showError(`Failed to load model: ${err.message}`);
    }
  }
  
  async handleSubmit(event) {
    event.preventDefault();
    
    if (!this.modelReady || this.isGenerating) return;
    
    const input = this.textarea.value.trim();
    if (!input) return;
    
    this.isGenerating = true;
    this.outputElement.textContent = "";
    this.generateBtn.disabled = true;
    this.stopBtn.disabled = false;
    this.errorElement.hidden = true;
    
    try {
      const maxTokens = parseInt(this.getAttribute('max-tokens') || '500', 10);
      const temperature = parseFloat(this.getAttribute('temperature') || '0.7');
      
      await this.endpoint({
        text: input,
        maxTokens: maxTokens,
        temperature: temperature,
        callback: this.handleToken
      });
    } catch (err) {
      this.showError(`Generation error: ${err.message}`);
      this.finishGeneration();
    }
  }
  
  handleToken(token, isLast) {
    this.outputElement.textContent += token;
    this.outputElement.scrollTop = this.outputElement.scrollHeight;
    
    // Dispatch token event
    this.dispatchEvent(new CustomEvent('token', {
      bubbles: true,
      composed: true,
      detail: { token, isLast }
    }));
    
    if (isLast) {
      this.finishGeneration();
      
      // Dispatch complete event
      this.dispatchEvent(new CustomEvent('generation-complete', {
        bubbles: true,
        composed: true,
        detail: { text: this.outputElement.textContent }
      }));
    }
  }
  
  handleStop() {
    if (this.isGenerating && this.accelerator) {
      this.accelerator.stopGeneration();
      this.finishGeneration();
      
      // Dispatch stopped event
      this.dispatchEvent(new CustomEvent('generation-stopped', {
        bubbles: true,
        composed: true
      }));
    }
  }
  
  finishGeneration() {
    this.isGenerating = false;
    this.generateBtn.disabled = false;
    this.stopBtn.disabled = true;
  }
  
  showError(message) {
    this.errorElement.textContent = message;
    this.errorElement.hidden = false;
    
    // Dispatch error event
    this.dispatchEvent(new CustomEvent('error', {
      bubbles: true,
      composed: true,
      detail: { message }
    }));
  }
}

// Register the custom element
customElements.define('streaming-llm', StreamingLLMElement);
