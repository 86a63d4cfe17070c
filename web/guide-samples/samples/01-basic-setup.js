import { 
  WebPlatformAccelerator,
  createWebEndpoint,
  getOptimalConfig 
} from '@ipfs-accelerate/web-platform';

import { 
  WebGPUStreamingInference,
  createStreamingEndpoint 
} from '@ipfs-accelerate/streaming';
