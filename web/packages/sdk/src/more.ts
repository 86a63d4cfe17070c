/** What is loaded when it is first asked for, in one file. */
export { benchmark } from './benchmark.js';
export { detect } from './capabilities.js';
export { diagnose, fix } from './diagnostics.js';
export { imageURL } from './image.js';
export { measureMemory, memoryOf } from './memory.js';
export { fillIn, optimalConfig } from './optimal.js';
export { profileOf, reportProfile } from './profile.js';
export { writePlain } from './server-socket.js';
export { settle } from './settle.js';
