import type { ImageInput } from './requests.js';
import { malformed } from './errors.js';

/** imageURL makes a data: URL, or keeps an address as it is, of whatever holds an image. */
export async function imageURL(image: ImageInput): Promise<string> {
  if (typeof image === 'string') return image;
  if (image instanceof URL) return image.href;
  if (image instanceof Blob) return blobURL(image);
  if (image instanceof ArrayBuffer) return bytesURL(new Uint8Array(image));
  if (image instanceof Uint8Array) return bytesURL(image);
  return drawn(image);
}

async function blobURL(blob: Blob): Promise<string> {
  return bytesURL(new Uint8Array(await blob.arrayBuffer()), blob.type);
}

function bytesURL(bytes: Uint8Array, type = ''): string {
  let binary = '';
  for (let i = 0; i < bytes.length; i += 0x8000) binary += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return `data:${type || typeOf(bytes)};base64,${btoa(binary)}`;
}

/** typeOf tells an image's type by its first bytes. */
function typeOf(b: Uint8Array): string {
  if (b[0] === 0x89 && b[1] === 0x50) return 'image/png';
  if (b[0] === 0xff && b[1] === 0xd8) return 'image/jpeg';
  if (b[0] === 0x47 && b[1] === 0x49) return 'image/gif';
  if (b[0] === 0x52 && b[1] === 0x49) return 'image/webp';
  throw malformed('imageData', 'must be a PNG, JPEG, GIF or WebP image');
}

/** drawn takes the pixels of an element, a bitmap or raw image data as PNG. */
async function drawn(image: ImageData | ImageBitmap | HTMLImageElement | HTMLCanvasElement): Promise<string> {
  if (typeof OffscreenCanvas === 'undefined') throw malformed('imageData', 'needs a browser that can draw it; pass the file instead');
  const raw = 'data' in image;
  const natural = image as HTMLImageElement;
  const canvas = new OffscreenCanvas(natural.naturalWidth || image.width, natural.naturalHeight || image.height);
  const context = canvas.getContext('2d')!;
  if (raw) context.putImageData(image as ImageData, 0, 0);
  else context.drawImage(image as CanvasImageSource, 0, 0);
  return blobURL(await canvas.convertToBlob({ type: 'image/png' }));
}
