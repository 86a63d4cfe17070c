import { watchCluster, type ClusterReport, type Where } from '@shoal/sdk';
import { Chat, type ChatOptions, type ChatState } from '@shoal/sdk/chat';
import { computed, getCurrentScope, onScopeDispose, ref, shallowRef, type ComputedRef, type Ref, type ShallowRef } from 'vue';

export type StreamingLLMOptions = ChatOptions;

type Refs<T> = { [K in keyof T]-?: ComputedRef<T[K]> };

/** What useStreamingLLM returns: the state as refs, and what can be done. */
export type StreamingLLMRefs = Refs<ChatState> &
  Pick<Chat, 'sendMessage' | 'regenerate' | 'stop' | 'setMessages' | 'resumeStream' | 'clearError' | 'close'>;

/**
 * useStreamingLLM is a conversation with a model. It stops with the scope that
 * it was called in; outside of one, call close.
 */
export function useStreamingLLM(options: StreamingLLMOptions = {}): StreamingLLMRefs {
  const chat = new Chat(options);
  const state = shallowRef(chat.snapshot());
  const unsubscribe = chat.subscribe(() => (state.value = chat.snapshot()));
  if (getCurrentScope())
    onScopeDispose(() => {
      unsubscribe();
      void chat.close();
    });
  const part = <K extends keyof ChatState>(key: K) => computed(() => state.value[key]);
  const { sendMessage, regenerate, stop, setMessages, resumeStream, clearError, close } = chat;
  return {
    messages: part('messages'), status: part('status'), error: part('error'), stats: part('stats'), phase: part('phase'), route: part('route'),
    sendMessage, regenerate, stop, setMessages, resumeStream, clearError, close,
  };
}

/** useCluster is the cluster's document, kept up to date until its scope ends or close is called. */
export function useCluster(where: Pick<Where, 'url' | 'apiKey'> = {}): { cluster: ShallowRef<ClusterReport | undefined>; connected: Ref<boolean>; close(): void } {
  const cluster = shallowRef<ClusterReport>();
  const connected = ref(false);
  const close = watchCluster(where, {
    onReport: (report) => (cluster.value = report),
    onConnected: (is) => (connected.value = is),
  });
  if (getCurrentScope()) onScopeDispose(close);
  return { cluster, connected, close };
}
