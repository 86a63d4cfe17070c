// Client-side code
const socket = new WebSocket('ws://your-server/streaming');

// Set up event handlers
socket.onopen = () => {
  socket.send(JSON.stringify({
    prompt: "Explain streaming inference",
    maxTokens: 100,
    temperature: 0.7,
    precision: "int4"
  }));
};

socket.onmessage = (event) => {
  const data = JSON.parse(event.data);
  
  if (data.type === 'token') {
    document.getElementById('output').textContent += data.token;
  } else if (data.type === 'complete') {
    console.log("Generation complete", data);
  }
};
