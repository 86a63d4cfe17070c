// The framework handles this automatically, but you can 
// access browser detection information:
const capabilities = await WebPlatformAccelerator.detectCapabilities();

console.log("Browser Capabilities:");
console.log(`- Browser: ${capabilities.browser} ${capabilities.version}`);
console.log(`- WebGPU Support: ${capabilities.webgpu.available ? "Yes" : "No"}`);
console.log(`- Compute Shaders: ${capabilities.webgpu.computeShaders ? "Yes" : "No"}`);
console.log(`- WebNN Support: ${capabilities.webnn.available ? "Yes" : "No"}`);
console.log(`- WebGL Fallback: ${capabilities.webgl.available ? "Yes" : "No"}`);
console.log(`- WebAssembly SIMD: ${capabilities.wasm.simd ? "Yes" : "No"}`);
