import { WebPlatformAccelerator, type Endpoint, type EndpointConfig } from '@shoal/sdk';
import { defineComponent, h, markRaw, type PropType } from 'vue';

/** StreamingLLM is a prompt and an answer that streams, as the guide's component is. It stops on unmount. */
export const StreamingLLM = defineComponent({
  name: 'StreamingLLM',
  props: {
    modelPath: { type: String, required: true },
    modelType: { type: String as PropType<EndpointConfig['modelType']>, default: 'text' },
    url: { type: String, default: undefined },
    config: { type: Object as PropType<EndpointConfig['config']>, default: undefined },
  },
  data: () => ({
    input: '',
    output: '',
    isGenerating: false,
    accelerator: null as WebPlatformAccelerator | null,
    endpoint: null as Endpoint | null,
    modelReady: false,
    error: null as string | null,
  }),
  mounted() {
    this.initializeModel();
  },
  beforeUnmount() {
    void this.accelerator?.close();
  },
  watch: {
    modelPath: 'initializeModel',
    modelType: 'initializeModel',
    url: 'initializeModel',
  },
  methods: {
    initializeModel() {
      void this.accelerator?.close();
      try {
        const { modelPath, modelType, url, config } = this;
        this.accelerator = markRaw(new WebPlatformAccelerator({ modelPath, modelType, url, config, autoDetect: true }));
        this.endpoint = markRaw(this.accelerator.createEndpoint());
        this.modelReady = true;
      } catch (e) {
        this.error = `Error initializing model: ${(e as Error).message}`;
      }
    },
    async handleSubmit() {
      if (!this.endpoint || this.isGenerating || !this.input.trim()) return;
      this.isGenerating = true;
      this.output = '';
      this.error = null;
      try {
        await this.endpoint({ text: this.input, callback: this.handleToken });
      } catch (e) {
        this.error = `Generation error: ${(e as Error).message}`;
      } finally {
        this.isGenerating = false;
      }
    },
    handleToken(token: string) {
      this.output += token;
      void this.$nextTick(() => {
        const box = this.$refs.outputContainer as HTMLElement | undefined;
        if (box) box.scrollTop = box.scrollHeight;
      });
    },
    handleStop() {
      void this.accelerator?.stopGeneration();
    },
  },
  render() {
    const { isGenerating, modelReady, error } = this;
    const onSubmit = (e: Event) => {
      e.preventDefault();
      void this.handleSubmit();
    };
    return h('div', { class: 'streaming-llm' }, [
      h('form', { onSubmit }, [
        h('textarea', {
          'aria-label': 'Prompt', value: this.input, placeholder: 'Enter your prompt here...', disabled: isGenerating,
          onInput: (e: Event) => (this.input = (e.target as HTMLTextAreaElement).value),
        }),
        h('div', { class: 'buttons' }, [
          h('button', { type: 'submit', disabled: isGenerating || !modelReady }, 'Generate'),
          h('button', { type: 'button', disabled: !isGenerating, onClick: this.handleStop }, 'Stop'),
        ]),
      ]),
      h('div', { class: 'output', role: 'log', 'aria-busy': isGenerating, ref: 'outputContainer' }, this.output || (isGenerating ? 'Generating...' : 'Output will appear here')),
      error ? h('div', { class: 'error', role: 'alert' }, error) : null,
      modelReady ? h('div', { class: 'status', role: 'status' }, `Model loaded: ${this.modelPath.split('/').pop()}`) : null,
    ]);
  },
});
