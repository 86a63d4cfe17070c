import { Chat, type ChatOptions, type ChatState, type Message } from '@shoal/sdk/chat';
import { useEffect, useMemo, useSyncExternalStore } from 'react';

export type { Message };
export type StreamingLLMOptions = ChatOptions;

/** StreamingLLMState is what useStreamingLLM returns. */
export type StreamingLLMState = ChatState & Pick<Chat, 'sendMessage' | 'regenerate' | 'stop' | 'setMessages' | 'resumeStream' | 'clearError'>;

/**
 * useStreamingLLM is a conversation with a model. It renders at most once per
 * frame, stops on unmount, and begins anew when the model or the server change.
 */
export function useStreamingLLM(options: StreamingLLMOptions = {}): StreamingLLMState {
  const { modelPath, modelType, url, config } = options;
  const key = JSON.stringify([modelPath, modelType, url, config]);
  // the key stands for the options: other functions in them make no new conversation
  const chat = useMemo(() => new Chat(options), [key]);
  useEffect(() => chat.update(options));
  useEffect(() => () => void chat.close(), [chat]);
  const state = useSyncExternalStore(chat.subscribe, chat.snapshot, chat.snapshot);
  const { sendMessage, regenerate, stop, setMessages, resumeStream, clearError } = chat;
  return { ...state, sendMessage, regenerate, stop, setMessages, resumeStream, clearError };
}
