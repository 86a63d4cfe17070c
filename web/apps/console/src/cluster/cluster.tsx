import type { ClusterReport, PipelineReport, StageReport, StageSpeedReport } from '@shoal/sdk';
import { ago, bytes, Copy, millis, number } from '../parts.js';

/** decode is what a stage takes of a token: as measured, or else as predicted. */
function decode(s: StageSpeedReport | undefined): { seconds: number; measured: boolean } {
  const measured = (s?.decodeSecondsMeasured ?? 0) > 0;
  return { seconds: measured ? s!.decodeSecondsMeasured : (s?.decodeSeconds ?? 0), measured };
}

function Stage({ stage, speed, state, slowest }: { stage: StageReport; speed?: StageSpeedReport; state: string; slowest: boolean }) {
  const { seconds, measured } = decode(speed);
  const layers = stage.end - stage.first;
  return (
    <li class={`stage ${state}${slowest ? ' slowest' : ''}`} style={{ flexGrow: layers }}>
      <strong>{stage.node}{stage.device > 0 && `/${stage.device}`}</strong>
      <span class="layers">layers {stage.first}–{stage.end - 1}{stage.embed && ' · embedding'}{stage.head && ' · head'}</span>
      <span class="ms">{millis(seconds)}<small>{seconds > 0 && (measured ? ' measured' : ' predicted')}{slowest && ', the slowest'}</small></span>
    </li>
  );
}

function Map({ pipeline, report }: { pipeline: PipelineReport; report: ClusterReport }) {
  const { stages } = pipeline.plan;
  const speeds = pipeline.speed?.stages ?? [];
  const times = stages.map((_, i) => decode(speeds[i]).seconds);
  const most = Math.max(...times);
  const token = pipeline.speed?.tokenSecondsMeasured || pipeline.speed?.tokenSeconds || 0;
  return (
    <section class="pipeline" aria-label={`Pipeline ${pipeline.id}`}>
      <h3>Pipeline {pipeline.id} <small>{pipeline.state} · {pipeline.running} running · {token > 0 ? `${number(1 / token)} tokens/s a stream` : 'not measured yet'}</small></h3>
      <ol class="map">
        {stages.map((s, i) => (
          <>
            {i > 0 && <Hop key={`h${i}`} from={stages[i - 1]!.node} to={s.node} seconds={speeds[i]?.hopSeconds ?? 0} report={report} />}
            <Stage key={`${s.node}/${s.device}/${s.first}`} stage={s} speed={speeds[i]} state={report.nodes[s.node]?.state ?? 'lost'} slowest={stages.length > 1 && times[i] === most && most > 0} />
          </>
        ))}
      </ol>
    </section>
  );
}

function Hop({ from, to, seconds, report }: { from: string; to: string; seconds: number; report: ClusterReport }) {
  const link = report.links?.[from]?.[to];
  const rate = link && link.bytesPerSecond > 0 ? ` · ${bytes(link.bytesPerSecond)}/s` : '';
  return <li class="hop"><span aria-hidden="true">→</span><small>{millis(seconds || (link?.delaySeconds ?? 0))}{rate}</small></li>;
}

function Nodes({ report }: { report: ClusterReport }) {
  const used: Record<string, { weights: number; all: number; layers: string[] }> = {};
  for (const p of report.pipelines ?? [])
    p.plan.stages.forEach((s, i) => {
      const speed = p.speed?.stages[i];
      const u = (used[`${s.node}/${s.device}`] ??= { weights: 0, all: 0, layers: [] });
      u.weights += speed?.weightBytes ?? 0;
      u.all += speed?.bytesMeasured || speed?.bytes || 0;
      u.layers.push(`${s.first}–${s.end - 1}`);
    });
  const rows = Object.entries(report.nodes).flatMap(([name, n]) =>
    (n.devices?.length ? n.devices : [undefined]).map((d) => ({ name, n, d, u: d && used[`${name}/${d.index}`] })));
  return (
    <section aria-label="Nodes">
      <h3>Nodes</h3>
      <div class="scroll" tabIndex={0}>
        <table>
          <thead><tr>{['Node', 'State', 'Device', 'Layers', 'Memory in use', 'Weights', 'Version'].map((h) => <th scope="col">{h}</th>)}</tr></thead>
          <tbody>
            {rows.map(({ name, n, d, u }) => (
              <tr>
                <th scope="row">{name}</th>
                <td><span class={`dot ${n.state}`} aria-hidden="true" />{n.state}{n.reason && <small class="why">{n.reason}</small>}</td>
                <td>{d ? <>{d.name} <small>{d.kind}{d.threads > 0 && `, ${d.threads} threads`}</small></> : '–'}</td>
                <td>{u?.layers.join(', ') ?? '–'}</td>
                <td>{d && u ? <><meter min={0} max={d.memoryBytes} value={u.all} aria-label={`Memory of ${name}`} /> {bytes(u.all)} <small>of {bytes(d.memoryBytes)}</small></> : '–'}</td>
                <td>{u ? bytes(u.weights) : '–'}</td>
                <td>{n.version}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Models({ report }: { report: ClusterReport }) {
  return (
    <section aria-label="Models">
      <h3>Models</h3>
      <div class="scroll" tabIndex={0}>
        <table>
          <thead><tr>{['Model', 'State', 'Architecture', 'Precision', 'Context', 'Layers', 'Parameters', 'Fingerprint'].map((h) => <th scope="col">{h}</th>)}</tr></thead>
          <tbody>
            {Object.entries(report.models).map(([name, m]) => (
              <tr>
                <th scope="row">{name}</th><td>{m.state}{m.reason && <small class="why">{m.reason}</small>}</td><td>{m.architecture}</td><td>{m.precision}</td>
                <td>{m.context.toLocaleString('en')}</td><td>{m.layers}</td><td>{m.parameters >= 1e9 ? `${number(m.parameters / 1e9)} B` : `${number(m.parameters / 1e6)} M`}</td>
                <td><code>{m.fingerprint}</code></td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Events({ report }: { report: ClusterReport }) {
  return (
    <section aria-label="Events">
      <h3>Events</h3>
      <ol class="events">
        {[...report.events].reverse().map((e) => (
          <li key={e.number}><time dateTime={new Date(e.timeMs).toISOString()}>{ago(e.timeMs)}</time> <b>{e.kind.replaceAll('_', ' ')}</b> {e.node} <span>{e.text}</span></li>
        ))}
        {report.events.length === 0 && <li>Nothing has happened yet.</li>}
      </ol>
    </section>
  );
}

/** snippets are ways to ask from code. */
function snippets(base: string): [string, string][] {
  return [
    ['curl', `curl ${base}/v1/chat/completions \\\n  -H 'Content-Type: application/json' \\\n  -d '{"messages":[{"role":"user","content":"Hello"}],"stream":true}'`],
    ['Python', `from openai import OpenAI\n\nclient = OpenAI(base_url="${base}/v1", api_key="none")\nfor part in client.chat.completions.create(\n    model="default", stream=True,\n    messages=[{"role": "user", "content": "Hello"}],\n):\n    print(part.choices[0].delta.content or "", end="")`],
    ['JavaScript', `import { createStreamingEndpoint } from '${base}/sdk/index.js';\n\nconst endpoint = await createStreamingEndpoint({ url: '${base}' });\nfor await (const token of endpoint.generateStream({ prompt: 'Hello' })) document.body.append(token);`],
    ['HTML', `<script type="module" src="${base}/sdk/streaming-llm-element.js"></script>\n<streaming-llm url="${base}"></streaming-llm>`],
  ];
}

function Code() {
  return (
    <section aria-label="Use from code">
      <h3>Use from code</h3>
      <div class="snippets">
        {snippets(location.origin).map(([name, text]) => (
          <figure class="code"><figcaption><span>{name}</span><Copy text={text} what={name} /></figcaption><pre tabIndex={0}><code>{text}</code></pre></figure>
        ))}
      </div>
    </section>
  );
}

function Figure({ name, value, unit }: { name: string; value: string; unit?: string }) {
  return <div><dt>{name}</dt><dd>{value}{unit && <small> {unit}</small>}</dd></div>;
}

/** ClusterView shows who computes what. */
export function ClusterView({ report }: { report?: ClusterReport }) {
  if (!report) return <main class="cluster"><p>Asking the cluster…</p></main>;
  const nodes = Object.values(report.nodes);
  const count = (state: string) => nodes.filter((n) => n.state === state).length;
  return (
    <main class="cluster">
      <h2 class="unseen">Cluster</h2>
      {!report.ready && <p class="banner" role="status">{report.reason || 'No answer is possible yet.'}</p>}
      <dl class="figures">
        <Figure name="Nodes" value={`${count('ready')}`} unit={count('lost') > 0 ? `ready, ${count('lost')} lost` : 'ready'} />
        <Figure name="Running" value={`${report.sessions.running}`} unit={report.sessions.waiting > 0 ? `, ${report.sessions.waiting} waiting` : 'answers'} />
        <Figure name="Generated" value={number(report.rates.generatedTokens)} unit="tokens/s" />
        <Figure name="Read" value={number(report.rates.promptTokens)} unit="tokens/s" />
        <Figure name="Requests" value={number(report.totals.requests)} unit={report.totals.failed > 0 ? `, ${report.totals.failed} failed` : 'since the start'} />
      </dl>
      {(report.pipelines ?? []).map((p) => <Map key={`${p.epoch}/${p.id}`} pipeline={p} report={report} />)}
      {report.explanation && <details class="why-plan"><summary>Why this plan</summary><pre tabIndex={0}>{report.explanation}</pre></details>}
      <Nodes report={report} />
      <Models report={report} />
      <Events report={report} />
      <Code />
    </main>
  );
}
