/** What may be shown to a model, as the server reads it. */
const types = ['image/png', 'image/jpeg', 'image/webp', 'image/gif'];
const most = 16;
const mostBytes = 10 * 2 ** 20;

/** Added is what came of files that somebody pasted, dropped or chose. */
export interface Added {
  /** data: URLs, with those that were there */
  pictures: string[];
  /** why some were left out, for people */
  trouble?: string;
}

/** hold reads pictures, as many as a message may have. */
export async function hold(pictures: string[], files: File[]): Promise<Added> {
  const out = [...pictures];
  let trouble: string | undefined;
  for (const f of files) {
    if (!types.includes(f.type)) trouble = `${f.name} is no PNG, JPEG, WebP or GIF picture.`;
    else if (f.size > mostBytes) trouble = `${f.name} is larger than ${mostBytes / 2 ** 20} MiB.`;
    else if (out.length === most) trouble = `A message has at most ${most} pictures.`;
    else out.push(await dataURL(f));
  }
  return { pictures: out, ...(trouble && { trouble }) };
}

function dataURL(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const r = new FileReader();
    r.onload = () => resolve(r.result as string);
    r.onerror = () => reject(r.error);
    r.readAsDataURL(file);
  });
}

/** Pictures shows pictures, which can be taken out again while a message is written. */
export function Pictures({ of, onRemove }: { of: string[]; onRemove?(i: number): void }) {
  if (of.length === 0) return null;
  return (
    <ul class="pictures" aria-label="Pictures">
      {of.map((url, i) => (
        <li key={url}>
          <img src={url} alt={`Picture ${i + 1}`} />
          {onRemove && <button type="button" class="quiet" aria-label={`Remove picture ${i + 1}`} onClick={() => onRemove(i)}>✕</button>}
        </li>
      ))}
    </ul>
  );
}
