// How each sample of the guide is run: what it needs around it, what is done
// with it, and how one sees that it worked.
//
//   prelude   code before the sample: what its page would have
//   drive     code after it: a call of what the sample defines
//   act       what a person does on the page
//   check     runs in the page; true when the sample has done its work
//   repair    a change without which the sample does not run anywhere
//   without   lines that ask for what is not served yet: where the whole sample
//             is refused by name, the rest is run without them
//   server    the model that answers: int4 unless it says int8

/** What is not served yet, by the option under which the server refuses it. */
export const landing = {
  'config.optimizeKVCache': 'quantised KV caches are not served yet',
  'config.kvCacheOptimization': 'quantised KV caches are not served yet',
  'config.kvCacheConfig.bits': 'the demo server is started without --kv',
  'config.quantization': 'the demo model is served in int8 and int4 only',
  'config.adaptivePrecisionConfig': 'precision per component is not served yet',
  'config.workgroupSize': 'workgroup sizes of GPU kernels cannot be chosen yet',
  'config.memoryOptimizedMode': 'quantised KV caches are not served yet',
  'config.contextCompressionEnabled': 'compressed contexts are not served yet',
  'config.collectLayerTiming': 'timings per layer are not measured yet',
  'config.visionModelPath': 'an encoder is the model\'s own, and cannot be chosen',
  'messages[0].content[0]': 'the demo model reads text alone',
};

const output = '<div id="output"></div>';
const streaming = "const streaming = new WebGPUStreamingInference({ modelPath: 'models/llama-7b' });";
const text = () => document.getElementById('output').textContent.length > 0;
const logged = (word) => `lines.some((l) => l.includes(${JSON.stringify(word)}))`;
/** try asks an object that a sample has made for a short answer: its options are refused or honoured then. */
const tried = (name) => `window.answer = await ${name}.generate({ prompt: 'Hello', maxTokens: 4 });`;
const answered = () => window.answer?.usage.completionTokens > 0;

async function type(page, prompt) {
  await page.locator('textarea').fill(prompt);
  await page.getByRole('button', { name: 'Generate' }).click();
}

/** askAndStop asks for a short answer, and stops a long one in the middle. */
async function askAndStop(page) {
  const ready = () => page.getByRole('button', { name: 'Generate' }).isEnabled();
  const until = async (holds) => {
    for (const end = Date.now() + 20_000; !(await holds()); await new Promise((r) => setTimeout(r, 50))) if (Date.now() > end) throw new Error(`it took too long: ${holds}`);
  };
  await until(ready);
  await type(page, 'Hello');
  await until(ready);
  await type(page, 'Tell me a long story');
  await until(async () => (await page.locator('.output').textContent()).length > 20 || (await ready())); // it may be a short one
  const stop = page.getByRole('button', { name: 'Stop' });
  await stop.evaluate((button) => button.click()); // does nothing if the answer has just ended
  await until(ready);
  await page.evaluate(() => (window.acted = document.querySelector('.error')?.textContent || 'ok'));
}
const acted = () => window.acted === 'ok';

export const cases = {
  '01-basic-setup': {
    drive: 'window.all = [WebPlatformAccelerator, createWebEndpoint, getOptimalConfig, WebGPUStreamingInference, createStreamingEndpoint];',
    check: () => window.all.every((f) => typeof f === 'function'),
  },
  '02-standard-usage-non-streaming': { body: output, drive: 'await setupModel();', check: text },
  '03-streaming-inference-setup': { body: output, drive: 'await setupStreamingModel();', check: logged('Generation complete'), without: /optimizeKVCache/ },
  '04-using-the-unified-framework-with-streaming': { body: output, drive: 'await setupUnifiedStreamingModel();', check: text, without: /kvCacheOptimization/ },
  '05-callback-based-streaming': {
    body: output,
    drive: 'window.transport = () => streaming.getDebugInfo().transport;',
    check: `${logged('Generation complete')} && window.transport() === 'websocket'`,
  },
  '06-websocket-based-streaming': { body: output, repair: (s) => s.replace('ws://your-server/', `ws://' + location.host + '/`), check: logged('Generation complete') },
  '07-websocket-based-streaming': { node: true, without: /optimizeKVCache/ },
  '08-async-generator-based-streaming': { body: output, drive: 'await generateStream();', check: logged('Generation complete') },
  '09-measuring-streaming-performance': {
    body: output,
    drive: `${streaming} await streaming.generate({ prompt: 'Hello', maxTokens: 50, callback: measureTokenCallback });`,
    check: logged('Avg inter-token latency'),
  },
  '10-selecting-the-right-precision': { check: logged('Selected precision: int') },
  '11-kv-cache-optimization': { drive: tried('streaming'), check: answered, without: /optimizeKVCache|kvCacheConfig: kvCacheConfig/ },
  '12-memory-usage-monitoring': { prelude: streaming, check: logged('Original FP16 equivalent memory') },
  '13-adaptive-precision-configuration': { drive: tried('streaming'), check: answered, without: /quantization: "adaptive"|adaptivePrecisionConfig: a|optimizeKVCache/ },
  '14-browser-detection-and-adaptation': { check: logged('WebAssembly SIMD: Yes') },
  '15-chrome-edge': { drive: configured('chromeConfig'), check: answered, without: /quantization|workgroupSize/ },
  '16-firefox': { prelude: "const modelType = 'text';", drive: configured('firefoxConfig'), check: answered, without: /quantization|workgroupSize/ },
  '17-safari': { drive: configured('safariConfig'), check: answered, server: 'int8' },
  '18-mobile-browsers': { drive: configured('mobileConfig'), check: answered, without: /quantization|optimizeKVCache|memoryOptimizedMode/ },
  '19-feature-detection-and-fallbacks': {
    drive: "window.answer = { usage: { completionTokens: (await accelerator.createEndpoint()({ text: 'Hello', maxTokens: 4 })).length } };",
    check: answered,
  },
  '20-long-context-generation': {
    routes: { '/api/long-document': ['text/plain', 'A fox met a bear. '.repeat(20)] },
    repair: (s) => s.replace('/* handle token */', 'console.log("token", token)'),
    check: logged('token'),
    without: /quantization|optimizeKVCache|bits: 3|progressivePrecision|contextCompression/,
  },
  '21-multimodal-streaming': {
    prelude: 'async function loadAndProcessImage() { return new ImageData(8, 8); }',
    repair: (s) => s.replace('/* handle token */', 'console.log("token", token)'),
    check: logged('token'),
  },
  '22-multi-device-load-balancing': {
    repair: (s) => s.split('// Worker page code')[0],
    routes: (s, page) => ({ '/model-worker.html': ['text/html', page(workerPage(s))] }),
    drive: `window.tokens = []; await new ModelShardingCoordinator('models/llama-7b', 2).generateStreaming('Hello', 20, (t, isLast) => tokens.push([t, isLast]));`,
    check: () => window.tokens?.at(-1)?.[1] === true,
  },
  '23-streaming-with-real-time-input': {
    body: '<div id="response"></div><input id="userInput"><button id="sendButton">send</button><button id="stopButton">stop</button>',
    drive: `
      const first = await chat.sendMessage('Tell me a story');
      if (first.error) throw new Error(first.error);
      const running = chat.sendMessage('Tell me a longer story');
      chat.setCallbacks({ onToken: () => setTimeout(() => chat.stopGeneration()), onComplete: () => (window.completed = (window.completed ?? 0) + 1) });
      const stopped = await running;
      window.turns = chat.conversation.map((t) => t.role);
      window.fine = stopped.success && !chat.isGenerating && window.completed === 1;`,
    check: () => window.fine && window.turns.join() === 'user,assistant,user,assistant',
    without: /optimizeKVCache/,
  },
  '24-react-integration': { body: '<div id="app"></div>', react: 'component', act: askAndStop, check: acted },
  '25-react-integration': { body: '<div id="app"></div>', react: 'app', act: askAndStop, check: acted },
  '26-vue-js-integration': { body: '<div id="app"></div>', act: askAndStop, check: acted },
  '27-web-component-integration': { body: '<streaming-llm model-path="models/llama-7b"></streaming-llm>', act: askAndStop, check: acted },
  '28-web-component-integration': { act: askAndStop, check: `window.acted === 'ok' && ${logged('Model is ready to use')} && ${logged('Generation complete')}` },
  '29-measuring-performance': { check: logged('Recommended Configuration'), patience: 400_000 },
  '30-device-specific-optimizations': {
    repair: (s) => s.replace('function getDeviceClass', 'async function getDeviceClass'),
    drive: "window.answer = { usage: { completionTokens: (await accelerator.createEndpoint()({ text: 'Hello', maxTokens: 4 })).length } };",
    check: answered,
    without: /optimizeKVCache|quantization: "int2"|memoryOptimizedMode/,
  },
  '31-advanced-kv-cache-configuration': { drive: tried('streaming'), check: answered, without: /quantization: "int3"|\.\.\.longContextConfig/ },
  '32-profiling-and-optimization': {
    prelude: 'window.chart = []; function addToPerformanceChart(d) { chart.push(d); }',
    drive: `window.answer = await optimizedStreaming.generate({ prompt: 'Hello', maxTokens: 4 });`,
    check: () => window.answer?.usage.completionTokens > 0 && window.chart.length > 0,
    without: /collectLayerTiming/,
  },
  '33-diagnostic-tools': { check: logged('Estimated Available Memory') },
  '34-debugging-streaming-issues': { check: `${logged('Full Debug Log')} && ${logged('Token generated')} && ${logged('Inference step')}` },
};

function configured(name) {
  return `window.answer = await new WebGPUStreamingInference({ modelPath: 'models/llama-7b', config: ${name} }).generate({ prompt: 'Hello', maxTokens: 4 });`;
}

/** workerPage is the second half of the sharding sample; it also says that it is there, for as printed each side waits for the other. */
function workerPage(sample) {
  const worker = sample.slice(sample.indexOf('// Worker page code'));
  return `${worker}\nwindow.opener.postMessage({ type: 'shard-ready', shardId: Number(window.name.split('-')[1]) }, '*');`;
}
