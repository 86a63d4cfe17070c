let startTime = Date.now();
let tokenCount = 0;
let firstTokenTime = null;
let lastTokenTime = null;
let interTokenTimes = [];

function measureTokenCallback(token, isLast) {
  const now = Date.now();
  tokenCount++;
  
  // Measure time to first token
  if (tokenCount === 1) {
    firstTokenTime = now;
    console.log(`Time to first token: ${(firstTokenTime - startTime)}ms`);
  }
  
  // Measure inter-token latency
  if (lastTokenTime !== null) {
    interTokenTimes.push(now - lastTokenTime);
  }
  lastTokenTime = now;
  
  // Display token
  document.getElementById('output').textContent += token;
  
  // Final metrics
  if (isLast) {
    const totalTime = now - startTime;
    const avgInterTokenLatency = interTokenTimes.reduce((a, b) => a + b, 0) / interTokenTimes.length;
    const tokensPerSecond = tokenCount / (totalTime / 1000);
    
    console.log(`Generation complete:
      - Tokens: ${tokenCount}
      - Total time: ${totalTime}ms
      - Avg inter-token latency: ${avgInterTokenLatency.toFixed(2)}ms
      - Tokens per second: ${tokensPerSecond.toFixed(2)}`);
  }
}
