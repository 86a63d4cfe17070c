import { WebPlatformAccelerator, type Endpoint, type EndpointConfig } from '@shoal/sdk';
import { useEffect, useRef, useState, type FormEvent, type ReactNode } from 'react';

interface Model {
  accelerator: WebPlatformAccelerator;
  endpoint: Endpoint;
}

/** StreamingLLM is a prompt and an answer that streams, as the guide's component is. It stops on unmount. */
export function StreamingLLM({ modelPath, modelType, url, config }: Pick<EndpointConfig, 'modelType' | 'url' | 'config'> & { modelPath: string }): ReactNode {
  const [input, setInput] = useState('');
  const [output, setOutput] = useState('');
  const [isGenerating, setIsGenerating] = useState(false);
  const [model, setModel] = useState<Model | null>(null);
  const [error, setError] = useState<string | null>(null);
  const outputRef = useRef<HTMLDivElement>(null);
  const key = JSON.stringify(config);

  useEffect(() => {
    try {
      const accelerator = new WebPlatformAccelerator({ modelPath, modelType, url, config, autoDetect: true });
      setModel({ accelerator, endpoint: accelerator.createEndpoint() });
      return () => void accelerator.close();
    } catch (e) {
      setError(`Error initializing model: ${(e as Error).message}`);
      return undefined;
    }
  }, [modelPath, modelType, url, key]);
  useEffect(() => {
    if (outputRef.current) outputRef.current.scrollTop = outputRef.current.scrollHeight;
  }, [output]);

  const handleSubmit = async (e: FormEvent) => {
    e.preventDefault();
    if (!model || isGenerating || !input.trim()) return;
    setIsGenerating(true);
    setOutput('');
    setError(null);
    try {
      await model.endpoint({ text: input, callback: (token) => setOutput((before) => before + token) });
    } catch (err) {
      setError(`Generation error: ${(err as Error).message}`);
    } finally {
      setIsGenerating(false);
    }
  };

  return (
    <div className="streaming-llm">
      <form onSubmit={(e) => void handleSubmit(e)}>
        <textarea aria-label="Prompt" value={input} onChange={(e) => setInput(e.target.value)} placeholder="Enter your prompt here..." disabled={isGenerating} />
        <div className="buttons">
          <button type="submit" disabled={isGenerating || !model}>Generate</button>
          <button type="button" onClick={() => void model?.accelerator.stopGeneration()} disabled={!isGenerating}>Stop</button>
        </div>
      </form>
      <div className="output" role="log" aria-busy={isGenerating} ref={outputRef}>
        {output || (isGenerating ? 'Generating...' : 'Output will appear here')}
      </div>
      {error && <div className="error" role="alert">{error}</div>}
      {model && <div className="status" role="status">Model loaded: {modelPath.split('/').pop()}</div>}
    </div>
  );
}
