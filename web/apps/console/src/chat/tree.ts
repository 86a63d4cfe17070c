/** Ended says how an answer came to its end. */
export interface Ended {
  reason: 'stop' | 'length' | 'tool_calls' | 'stopped' | 'error';
  /** what went wrong, for people */
  error?: string;
  tokens: number;
  promptTokens: number;
  cachedTokens: number;
  tokensPerSecond: number;
  promptPerSecond: number;
  firstTokenMs: number;
}

/** Turn is something that was said. Turns with the same parent are branches. */
export interface Turn {
  id: string;
  parent: string;
  role: 'user' | 'assistant';
  text: string;
  /** data: URLs of what was shown with it */
  pictures?: string[];
  reasoning: string;
  at: number;
  /** "node/device [first..end)" of each stage that answered */
  route: string[];
  /** absent while the answer is written, and after the page was left meanwhile */
  ended?: Ended;
}

export interface Params {
  system: string;
  temperature: number;
  topP: number;
  maxTokens: number;
  seed: string;
}

export const defaults: Params = { system: '', temperature: 0.7, topP: 1, maxTokens: 500, seed: '' };

/** Chat is a conversation: a tree of turns, and which branch is looked at. */
export interface Chat {
  id: string;
  title: string;
  updated: number;
  model: string;
  params: Params;
  turns: Record<string, Turn>;
  /** by parent, the branch that is shown; absent: the latest */
  chosen: Record<string, string>;
}

export const root = '';

export function newID(): string {
  return crypto.randomUUID();
}

export function newChat(model = '', params: Params = defaults): Chat {
  return { id: newID(), title: 'New chat', updated: Date.now(), model, params, turns: {}, chosen: {} };
}

/** byParent are the turns after each turn, oldest first. */
function byParent(chat: Chat): Map<string, Turn[]> {
  const out = new Map<string, Turn[]>();
  for (const t of Object.values(chat.turns)) {
    const beside = out.get(t.parent);
    if (beside) beside.push(t);
    else out.set(t.parent, [t]);
  }
  for (const turns of out.values()) turns.sort((a, b) => a.at - b.at || a.id.localeCompare(b.id));
  return out;
}

/** branches are the turns after a parent, oldest first. */
export function branches(chat: Chat, parent: string): Turn[] {
  return byParent(chat).get(parent) ?? [];
}

/** shown is what is looked at, from the beginning to the end of a branch, each turn with all that stand in its place. */
export function shown(chat: Chat): { turn: Turn; siblings: Turn[] }[] {
  const after = byParent(chat);
  const out: { turn: Turn; siblings: Turn[] }[] = [];
  for (let parent = root; ; ) {
    const siblings = after.get(parent);
    if (!siblings) return out;
    const turn = siblings.find((t) => t.id === chat.chosen[parent]) ?? siblings.at(-1)!;
    out.push({ turn, siblings });
    parent = turn.id;
  }
}

/** path is shown without what stands beside it. */
export function path(chat: Chat): Turn[] {
  return shown(chat).map((s) => s.turn);
}

/** withTurn is a chat with a turn added or changed, and shown. */
export function withTurn(chat: Chat, turn: Turn): Chat {
  return { ...chat, updated: Date.now(), turns: { ...chat.turns, [turn.id]: turn }, chosen: { ...chat.chosen, [turn.parent]: turn.id } };
}

/** without is a chat without a turn and all that follows it. */
export function without(chat: Chat, id: string): Chat {
  const gone = new Set([id]);
  for (let more = true; more; ) {
    more = false;
    for (const t of Object.values(chat.turns))
      if (gone.has(t.parent) && !gone.has(t.id)) more = !!gone.add(t.id);
  }
  const turns = Object.fromEntries(Object.entries(chat.turns).filter(([k]) => !gone.has(k)));
  const chosen = Object.fromEntries(Object.entries(chat.chosen).filter(([k, v]) => !gone.has(k) && !gone.has(v)));
  return { ...chat, updated: Date.now(), turns, chosen };
}

/** titleOf is a name for a chat, from its first words. */
export function titleOf(text: string): string {
  const line = text.trim().split('\n')[0]!.replace(/\s+/g, ' ');
  return line.length > 48 ? line.slice(0, 47).trimEnd() + '…' : line || 'New chat';
}

/** asMarkdown is what a chat shows, as text to keep. */
export function asMarkdown(chat: Chat): string {
  const said = path(chat).map((t) => `### ${t.role === 'user' ? 'You' : 'Answer'}\n\n${t.text}\n`);
  return `# ${chat.title}\n\n${said.join('\n')}`;
}

/** parseChats reads an export. It throws an Error that says what is wrong. */
export function parseChats(json: string): Chat[] {
  let doc: { shoal?: string; chats?: unknown };
  try {
    doc = JSON.parse(json) as typeof doc;
  } catch {
    throw new Error('The file is not JSON.');
  }
  if (doc?.shoal !== 'chats' || !Array.isArray(doc.chats)) throw new Error('The file is no export of chats.');
  return doc.chats.map((c: unknown, i: number) => {
    const chat = c as Partial<Chat>;
    if (typeof chat?.id !== 'string' || typeof chat.title !== 'string' || typeof chat.turns !== 'object' || chat.turns === null)
      throw new Error(`Chat ${i + 1} of the file is damaged.`);
    for (const t of Object.values(chat.turns))
      if (typeof t?.id !== 'string' || typeof t.parent !== 'string' || typeof t.text !== 'string' || !['user', 'assistant'].includes(t.role) || !isPictures(t.pictures))
        throw new Error(`Chat ${i + 1} of the file is damaged.`);
    return { ...newChat(), ...chat, params: { ...defaults, ...chat.params }, chosen: chat.chosen ?? {} } as Chat;
  });
}

/** isPictures takes data: URLs alone: an import fetches nothing. */
function isPictures(v: unknown): boolean {
  return v === undefined || (Array.isArray(v) && v.every((p) => typeof p === 'string' && p.startsWith('data:image/')));
}

export function exported(chats: Chat[]): string {
  return JSON.stringify({ shoal: 'chats', version: 1, chats }, null, 1);
}
