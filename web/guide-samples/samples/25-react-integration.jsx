// App.jsx
import React from 'react';
import StreamingLLM from './components/StreamingLLM';

function App() {
  return (
    <div className="App">
      <header>
        <h1>Streaming LLM Demo</h1>
      </header>
      
      <main>
        <StreamingLLM 
          modelPath="https://example.com/models/llama-7b" 
          modelType="text" 
        />
      </main>
      
      <footer>
        <p>Powered by WebGPU Unified Framework</p>
      </footer>
    </div>
  );
}

export default App;
