import { LLMError, WebGPUStreamingInference, type ChatMessage, type ContentPart, type Progress } from '@shoal/sdk';
import { Source } from '../state.js';
import type { Keep } from './keep.js';
import { exported, newChat, newID, parseChats, path, root, titleOf, without, withTurn, type Chat, type Ended, type Params, type Turn } from './tree.js';

/** Running is the answer that is being written. */
export interface Running {
  turn: string;
  phase?: Progress;
  began: number;
  firstAt: number;
  tokens: number;
}

export interface TalkState {
  chats: Chat[];
  chat: Chat;
  running?: Running;
  /** what screen readers are told */
  said: string;
  /** chats that could not be kept, for people */
  trouble?: string;
}

/** what people are told instead of a code */
const explanations: Record<string, string> = {
  no_capacity: 'The cluster has no room for another answer right now. Try again in a moment.',
  shard_lost: 'A machine that held part of the model went away, and nothing could take its place in time.',
  coordinator_unavailable: 'No coordinator is connected to this server at the moment.',
  context_length_exceeded: 'The conversation has become longer than the model can read. Start a new chat, or edit an earlier turn.',
  images_not_supported: 'This model reads text alone: it cannot be shown a picture.',
  invalid_api_key: 'The server wants an API key: enter it in Settings.',
};

/** Talk holds the conversations and runs answers, one at a time. */
export class Talk {
  readonly state: Source<TalkState>;
  private abort?: AbortController;
  private saving = new Map<string, Promise<void>>();

  constructor(private readonly keep: Keep, chats: Chat[], private readonly key: () => string) {
    const byTime = chats.sort((a, b) => b.updated - a.updated);
    this.state = new Source<TalkState>({ chats: byTime, chat: newChat(), said: '' });
  }

  private change(part: Partial<TalkState>, later = false): void {
    const next = { ...this.state.value, ...part };
    if (later) this.state.later(next);
    else this.state.set(next);
  }

  /** edit changes a chat wherever it is, and keeps it. */
  private edit(id: string, change: (c: Chat) => Chat, { later = false, save = true } = {}): Chat | undefined {
    const { chats, chat } = this.state.value;
    const old = chat.id === id ? chat : chats.find((c) => c.id === id);
    if (!old) return undefined;
    const next = change(old);
    const rest = chats.filter((c) => c.id !== id);
    const known = rest.length < chats.length || Object.keys(next.turns).length > 0;
    const listed = !known ? chats : save ? [next, ...rest] : chats.map((c) => (c.id === id ? next : c));
    this.change({ chats: listed, chat: chat.id === id ? next : chat }, later);
    if (save && known) this.save(next);
    return next;
  }

  private save(chat: Chat): void {
    const before = this.saving.get(chat.id) ?? Promise.resolve();
    const now = before.then(() => this.keep.put(chat)).catch((e: unknown) => this.change({ trouble: `This chat could not be kept: ${String(e)}` }));
    this.saving.set(chat.id, now);
  }

  open(id: string): void {
    const chat = this.state.value.chats.find((c) => c.id === id);
    if (chat) this.change({ chat });
  }

  /** fresh shows an empty chat with the settings of the one before. */
  fresh(): void {
    const { chat } = this.state.value;
    this.change({ chat: newChat(chat.model, chat.params) });
  }

  async remove(id: string): Promise<void> {
    const { chats, chat } = this.state.value;
    if (chat.id === id) {
      await this.stop();
      this.fresh();
    }
    this.change({ chats: chats.filter((c) => c.id !== id) });
    await this.saving.get(id);
    await this.keep.remove(id);
  }

  set(params: Partial<Params>): void {
    this.edit(this.state.value.chat.id, (c) => ({ ...c, params: { ...c.params, ...params } }));
  }

  useModel(model: string): void {
    this.edit(this.state.value.chat.id, (c) => ({ ...c, model }));
  }

  choose(parent: string, id: string): void {
    this.edit(this.state.value.chat.id, (c) => ({ ...c, chosen: { ...c.chosen, [parent]: id } }));
  }

  deleteTurn(id: string): void {
    if (!this.state.value.running) this.edit(this.state.value.chat.id, (c) => without(c, id));
  }

  export(): string {
    return exported(this.state.value.chats);
  }

  /** import adds chats of an export; one that is there already is replaced. */
  async import(json: string): Promise<number> {
    const found = parseChats(json);
    for (const chat of found) {
      const chats = [chat, ...this.state.value.chats.filter((c) => c.id !== chat.id)];
      this.change({ chats: chats.sort((a, b) => b.updated - a.updated) });
      await this.keep.put(chat);
    }
    return found.length;
  }

  /** send says something after what is shown, and has it answered. */
  async send(text: string, pictures: string[] = []): Promise<void> {
    const { chat, running } = this.state.value;
    if (running || (!text.trim() && pictures.length === 0)) return;
    await this.say(chat, path(chat).at(-1)?.id ?? root, text, pictures);
  }

  /** rephrase says something else in the place of a turn: a branch. */
  async rephrase(turn: Turn, text: string): Promise<void> {
    const { chat, running } = this.state.value;
    if (!running && text.trim()) await this.say(chat, turn.parent, text, turn.pictures ?? []);
  }

  private async say(chat: Chat, parent: string, text: string, pictures: string[]): Promise<void> {
    const turn: Turn = { id: newID(), parent, role: 'user', text, ...(pictures.length > 0 && { pictures }), reasoning: '', at: Date.now(), route: [] };
    const first = Object.keys(chat.turns).length === 0;
    this.edit(chat.id, (c) => ({ ...withTurn(c, turn), title: first ? titleOf(text) : c.title }));
    await this.answer(turn.id);
  }

  /** regenerate answers again what an answer answered: a branch. */
  async regenerate(answer: Turn): Promise<void> {
    if (!this.state.value.running) await this.answer(answer.parent);
  }

  /** resume has an answer that was cut short written on. */
  async resume(answer: Turn): Promise<void> {
    if (!this.state.value.running) await this.answer(answer.parent, answer);
  }

  async stop(): Promise<void> {
    this.abort?.abort();
  }

  /** answer writes an answer after a turn, or goes on with one. */
  private async answer(parent: string, cut?: Turn): Promise<void> {
    const { chat } = this.state.value;
    const turn: Turn = cut
      ? { ...cut, ended: undefined }
      : { id: newID(), parent, role: 'assistant', text: '', reasoning: '', at: Date.now(), route: [] };
    const id = chat.id;
    this.edit(id, (c) => withTurn(c, turn));
    const before = ancestors(this.state.value.chat, parent);
    const messages: ChatMessage[] = before.map((t) => ({ role: t.role, content: contentOf(t) }));
    if (cut) messages.push({ role: 'assistant', content: cut.text }, { role: 'user', content: 'Go on exactly where you stopped.' });
    const abort = (this.abort = new AbortController());
    const running: Running = { turn: turn.id, began: performance.now(), firstAt: 0, tokens: 0 };
    this.change({ running, said: '' });
    const show = (change: Partial<Turn>) => {
      Object.assign(turn, change);
      this.edit(id, (c) => ({ ...c, turns: { ...c.turns, [turn.id]: { ...turn } } }), { later: true, save: false });
    };
    const progress = (part: Partial<Running>) => {
      Object.assign(running, part);
      this.change({ running: { ...running } }, true);
    };
    turn.ended = await this.run(chat, messages, abort.signal, running, turn, show, progress);
    this.abort = undefined;
    this.edit(id, (c) => ({ ...c, updated: Date.now(), turns: { ...c.turns, [turn.id]: { ...turn } } }));
    this.change({ running: undefined, said: turn.ended.error ?? `Answer: ${turn.text}` });
  }

  private async run(
    chat: Chat, messages: ChatMessage[], signal: AbortSignal, running: Running, turn: Turn,
    show: (t: Partial<Turn>) => void, progress: (r: Partial<Running>) => void,
  ): Promise<Ended> {
    const { params, model } = chat;
    const llm = new WebGPUStreamingInference({ ...(model && { modelPath: model }), ...(this.key() && { apiKey: this.key() }) });
    const ended: Ended = { reason: 'error', tokens: 0, promptTokens: 0, cachedTokens: 0, tokensPerSecond: 0, promptPerSecond: 0, firstTokenMs: 0 };
    try {
      const result = await llm.generate({
        messages, signal, maxTokens: params.maxTokens, temperature: params.temperature,
        ...(params.system.trim() && { system: params.system }),
        ...(params.topP < 1 && { topP: params.topP }),
        ...(params.seed.trim() && { seed: Number(params.seed) }),
        onProgress: (phase) => progress({ phase }),
        onChunk: (c) => {
          running.tokens += c.tokens;
          running.firstAt ||= performance.now();
          progress({ phase: undefined });
          show({
            ...(c.reasoning ? { reasoning: turn.reasoning + c.text } : { text: turn.text + c.text }),
            ...(c.route && { route: c.route }),
          });
        },
      });
      const { usage, timings } = result;
      return {
        reason: result.finishReason, tokens: usage.completionTokens, promptTokens: usage.promptTokens, cachedTokens: usage.cachedTokens,
        tokensPerSecond: speed(running), firstTokenMs: timings.firstTokenMs,
        promptPerSecond: timings.promptMs ? (1000 * (usage.promptTokens - usage.cachedTokens)) / timings.promptMs : 0,
      };
    } catch (e) {
      const known = e instanceof LLMError ? e : undefined;
      const measured = { tokens: running.tokens, tokensPerSecond: speed(running), firstTokenMs: running.firstAt ? running.firstAt - running.began : 0 };
      if (signal.aborted || known?.code === 'aborted') return { ...ended, ...measured, reason: 'stopped' };
      return { ...ended, ...measured, error: explanations[known?.code ?? ''] ?? known?.message ?? String(e) };
    } finally {
      await llm.close();
    }
  }
}

/** contentOf is what a turn says to the model: its pictures, and then its text. */
function contentOf(t: Turn): string | ContentPart[] {
  if (!t.pictures?.length) return t.text;
  return [...t.pictures.map((url) => ({ type: 'image_url' as const, image_url: { url } })), { type: 'text', text: t.text }];
}

/** speed is tokens a second after the first. */
export function speed(r: Running): number {
  const seconds = (performance.now() - r.firstAt) / 1000;
  return r.firstAt && r.tokens > 1 && seconds > 0 ? (r.tokens - 1) / seconds : 0;
}

/** ancestors are a turn and those before it, oldest first. */
function ancestors(chat: Chat, id: string): Turn[] {
  const out: Turn[] = [];
  for (let t = chat.turns[id]; t; t = chat.turns[t.parent]) out.unshift(t);
  return out;
}
