/** One file for pages without a bundler: the element, registered. */
import './define.js';

export * from './index.js';
