import express from 'express';
import http from 'http';
import { WebSocketServer } from 'ws';
import { WebGPUStreamingInference } from '@ipfs-accelerate/streaming';

const app = express();
const server = http.createServer(app);
const wss = new WebSocketServer({ server });

// Set up WebSocket server
wss.on('connection', (ws) => {
  ws.on('message', async (message) => {
    const request = JSON.parse(message);
    
    // Create streaming handler
    const streaming = new WebGPUStreamingInference({
      modelPath: 'models/llama-7b',
      config: { 
        quantization: request.precision || "int4",
        optimizeKVCache: true
      }
    });
    
    // Use the stream_websocket method
    await streaming.streamWebsocket(
      ws,
      request.prompt,
      request.maxTokens,
      request.temperature
    );
  });
});

server.listen(8765, () => {
  console.log('Streaming server running on port 8765');
});
