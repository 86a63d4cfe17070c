import type { Chat } from './tree.js';

/** Keep holds chats between visits. */
export interface Keep {
  all(): Promise<Chat[]>;
  put(chat: Chat): Promise<void>;
  remove(id: string): Promise<void>;
}

const store = 'chats';

/** openKeep opens the browser's database; where there is none, nothing outlives the page. */
export async function openKeep(): Promise<Keep> {
  try {
    return inDatabase(await open());
  } catch {
    return { all: async () => [], put: async () => {}, remove: async () => {} };
  }
}

function open(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open('shoal', 1);
    request.onupgradeneeded = () => request.result.createObjectStore(store, { keyPath: 'id' });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function inDatabase(db: IDBDatabase): Keep {
  const run = <T>(mode: IDBTransactionMode, use: (s: IDBObjectStore) => IDBRequest<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      const transaction = db.transaction(store, mode);
      const request = use(transaction.objectStore(store));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
  return {
    all: () => run('readonly', (s) => s.getAll() as IDBRequest<Chat[]>),
    put: async (chat) => void (await run('readwrite', (s) => s.put(chat))),
    remove: async (id) => void (await run('readwrite', (s) => s.delete(id))),
  };
}
