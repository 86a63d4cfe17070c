// Coordinator code
class ModelShardingCoordinator {
  constructor(modelPath, numShards) {
    this.modelPath = modelPath;
    this.numShards = numShards;
    this.shards = [];
    this.isInitialized = false;
  }
  
  async initialize() {
    // Create sharded windows/workers
    for (let i = 0; i < this.numShards; i++) {
      const shardWindow = window.open('/model-worker.html', `shard-${i}`);
      this.shards.push(shardWindow);
      
      // Wait for window to load
      await new Promise(resolve => {
        window.addEventListener('message', function onMsg(e) {
          if (e.data.type === 'shard-ready' && e.data.shardId === i) {
            window.removeEventListener('message', onMsg);
            resolve();
          }
        });
      });
      
      // Initialize shard
      shardWindow.postMessage({
        type: 'initialize',
        shardId: i,
        totalShards: this.numShards,
        modelPath: this.modelPath
      }, '*');
    }
    
    this.isInitialized = true;
  }
  
  async generateStreaming(prompt, maxTokens, callback) {
    if (!this.isInitialized) await this.initialize();
    
    // Set up message handling for tokens
    window.addEventListener('message', (e) => {
      if (e.data.type === 'token') {
        callback(e.data.token, e.data.isLast);
      }
    });
    
    // Start generation on primary shard
    this.shards[0].postMessage({
      type: 'generate',
      prompt: prompt,
      maxTokens: maxTokens
    }, '*');
  }
}

// Worker page code (model-worker.html)
let shardId, totalShards, modelPath;
let streamingHandler;

window.addEventListener('message', async (e) => {
  if (e.data.type === 'initialize') {
    shardId = e.data.shardId;
    totalShards = e.data.totalShards;
    modelPath = e.data.modelPath;
    
    // Initialize this shard
    await initializeShard();
    
    // Signal ready
    window.opener.postMessage({
      type: 'shard-ready',
      shardId: shardId
    }, '*');
  }
  else if (e.data.type === 'generate') {
    // Run generation
    await runGeneration(e.data.prompt, e.data.maxTokens);
  }
});

async function initializeShard() {
  // Configure for this shard
  const config = {
    quantization: "int4",
    shardId: shardId,
    totalShards: totalShards
  };
  
  // Create streaming handler
  streamingHandler = new WebGPUStreamingInference({
    modelPath: modelPath,
    config: config
  });
}

async function runGeneration(prompt, maxTokens) {
  // Define callback to send tokens back to coordinator
  function handleToken(token, isLast) {
    window.opener.postMessage({
      type: 'token',
      token: token,
      isLast: isLast
    }, '*');
  }
  
  // Run streaming generation
  await streamingHandler.generate({
    prompt: prompt,
    maxTokens: maxTokens,
    callback: handleToken
  });
}
