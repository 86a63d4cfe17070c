// StreamingLLM.jsx
import React, { useState, useEffect, useRef } from 'react';
import { WebPlatformAccelerator } from '@ipfs-accelerate/web-platform';

const StreamingLLM = ({ modelPath, modelType }) => {
  const [input, setInput] = useState('');
  const [output, setOutput] = useState('');
  const [isGenerating, setIsGenerating] = useState(false);
  const [model, setModel] = useState(null);
  const [error, setError] = useState(null);
  const outputRef = useRef(null);
  
  // Initialize model on component mount
  useEffect(() => {
    async function initializeModel() {
      try {
        const accelerator = new WebPlatformAccelerator({
          modelPath: modelPath,
          modelType: modelType,
          config: {
            streamingInference: true,
            quantization: "int4"
          },
          autoDetect: true
        });
        
        const endpoint = accelerator.createEndpoint();
        setModel({ accelerator, endpoint });
      } catch (err) {
        setError(`Error initializing model: ${err.message}`);
      }
    }
    
    initializeModel();
    
    // Cleanup on unmount
    return () => {
      // Release model resources if needed
    };
  }, [modelPath, modelType]);
  
  // Handle form submission
  const handleSubmit = async (e) => {
    e.preventDefault();
    if (!model || isGenerating || !input.trim()) return;
    
    setIsGenerating(true);
    setOutput('');
    
    try {
      // Token callback function
      const handleToken = (token, isLast) => {
        setOutput(prev => prev + token);
        
        // Scroll to bottom as tokens arrive
        if (outputRef.current) {
          outputRef.current.scrollTop = outputRef.current.scrollHeight;
        }
        
        if (isLast) {
          setIsGenerating(false);
        }
      };
      
      // Run model with streaming
      await model.endpoint({
        text: input,
        maxTokens: 500,
        temperature: 0.7,
        callback: handleToken
      });
    } catch (err) {
      setError(`Generation error: ${err.message}`);
      setIsGenerating(false);
    }
  };
  
  // Stop generation
  const handleStop = () => {
    if (model && isGenerating) {
      model.accelerator.stopGeneration();
      setIsGenerating(false);
    }
  };
  
  return (
    <div className="streaming-llm">
      <form onSubmit={handleSubmit}>
        <textarea
          value={input}
          onChange={(e) => setInput(e.target.value)}
          placeholder="Enter your prompt here..."
          disabled={isGenerating}
        />
        <div className="buttons">
          <button type="submit" disabled={isGenerating || !model}>
            Generate
          </button>
          <button 
            type="button" 
            onClick={handleStop} 
            disabled={!isGenerating}
          >
            Stop
          </button>
        </div>
      </form>
      
      <div className="output" ref={outputRef}>
        {output || (isGenerating ? "Generating..." : "Output will appear here")}
      </div>
      
      {error && <div className="error">{error}</div>}
      
      {model && (
        <div className="status">
          Model loaded: {modelPath.split('/').pop()}
        </div>
      )}
    </div>
  );
};

export default StreamingLLM;
