package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shoal-llm/shoal/internal/synthetic"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/gguf/gguftest"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// largeShape is a model of 4 GB in Q4_0, as wide as those of 8 billion parameters.
func largeShape(vocab int) synthetic.Shape {
	return synthetic.Shape{Name: "large", Layers: 32, Hidden: 4096, FF: 14336, Heads: 32, KVHeads: 8, Vocab: vocab, Context: 2048, Tied: true}
}

// writeLarge writes a GGUF file of random weights with the vocabulary of another.
func writeLarge(path, tokenizer string) (err error) {
	voc, err := gguf.Open(tokenizer, gguf.Options{Formats: formats.All()})
	if err != nil {
		return err
	}
	defer voc.Close()
	meta := voc.Meta()
	vocab, err := meta.Len("tokenizer.ggml.tokens")
	if err != nil {
		return err
	}
	shape := largeShape(vocab)
	format, _ := formats.ByName("Q4_0")
	m, err := synthetic.New(shape, format)
	if err != nil {
		return err
	}
	b := gguftest.New().KV("general.architecture", "llama").KV("general.name", "large").
		KV("llama.block_count", uint32(shape.Layers)).KV("llama.context_length", uint32(shape.Context)).
		KV("llama.embedding_length", uint32(shape.Hidden)).KV("llama.feed_forward_length", uint32(shape.FF)).
		KV("llama.attention.head_count", uint32(shape.Heads)).KV("llama.attention.head_count_kv", uint32(shape.KVHeads)).
		KV("llama.vocab_size", uint32(vocab)).KV("llama.rope.dimension_count", uint32(shape.Hidden/shape.Heads)).
		KV("llama.rope.freq_base", float32(500000)).KV("llama.attention.layer_norm_rms_epsilon", float32(1e-5))
	if err := copyTokenizer(b, meta); err != nil {
		return err
	}
	names, offset := m.Arch.Tensors(m.Spec, model.Whole(m.Spec)), uint64(0)
	for _, name := range names {
		t, _ := m.Source.Tensor(name)
		dims := []uint64{uint64(t.Cols), uint64(t.Rows)}
		if t.Rows == 1 {
			dims = dims[:1]
		}
		b.Info(name, dims, t.Format.GGML, offset)
		offset += align(len(t.Data))
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	if _, err := w.Write(b.Bytes()); err != nil {
		return err
	}
	for _, name := range names {
		t, _ := m.Source.Tensor(name)
		if _, err := w.Write(t.Data); err != nil {
			return err
		}
		if _, err := w.Write(make([]byte, align(len(t.Data))-uint64(len(t.Data)))); err != nil {
			return err
		}
	}
	return errors.Join(w.Flush(), f.Sync())
}

func align(n int) uint64 { return uint64(n+31) &^ 31 }

// copyTokenizer copies what the vocabulary of SmolLM2 has.
func copyTokenizer(b *gguftest.Builder, meta gguf.Metadata) error {
	var errs []error
	for _, key := range meta.Keys() {
		if !strings.HasPrefix(key, "tokenizer.") {
			continue
		}
		if v, err := meta.String(key); err == nil {
			b.KV(key, v)
		} else if v, err := meta.Bool(key); err == nil {
			b.KV(key, v)
		} else if v, err := meta.Uint32(key); err == nil {
			b.KV(key, v)
		} else if v, err := meta.Strings(key); err == nil {
			b.KV(key, v)
		} else if v, err := meta.Int32s(key); err == nil {
			b.KV(key, v)
		} else {
			errs = append(errs, fmt.Errorf("%s is of no type that is copied", key))
		}
	}
	return errors.Join(errs...)
}

// large measures a model of 4 GB: how long after its start a process is ready, beside
// how long the disk takes for the same bytes, and what memory shards take at most.
func (b *bench) large(ctx context.Context) error {
	path := b.largeFile
	if path == "" {
		path = filepath.Join(b.dir, "large.gguf") // removed with the folder
	}
	if _, err := os.Stat(path); err != nil {
		if err := writeLarge(path, b.file); err != nil {
			return err
		}
	}
	if err := b.diskToReady(path); err != nil {
		return err
	}
	return b.memory(ctx, path)
}

// diskToReady reads a file as fast as the disk can, and has a process load it, in turn.
func (b *bench) diskToReady(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	var shares []float64
	for range 3 {
		read, err := readAll(path)
		if err != nil {
			return err
		}
		if err := forget(path); err != nil {
			return err
		}
		began := time.Now()
		p, err := b.start("up", path, "--listen=127.0.0.1:0", "--device=cpu", "--context=512", "--stages=1", "--state-dir="+filepath.Join(b.dir, "state"), "--store="+filepath.Join(b.dir, "none"))
		if err != nil {
			return err
		}
		err = p.awaitLine("ready in", began)
		took := time.Since(began)
		p.stop()
		if err != nil {
			return err
		}
		fmt.Printf("  read in %v (%.0f MB/s), ready in %v\n", read, float64(info.Size())/read.Seconds()/1e6, took)
		shares = append(shares, read.Seconds()/took.Seconds())
	}
	slices.Sort(shares)
	b.note("disk_to_ready_share", shares[len(shares)/2], "of the disk's read rate", len(shares))
	return nil
}

// forget has the system drop the pages of a file.
func forget(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// readAll reads a file that no memory holds, several pieces at once, and returns how
// long that took.
func readAll(path string) (time.Duration, error) {
	if err := forget(path); err != nil {
		return 0, err
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	const readers, piece = 4, 4 << 20
	pieces := make(chan int64)
	errs := make(chan error, readers)
	began := time.Now()
	for range readers {
		go func() {
			buf := make([]byte, piece)
			var failed error
			for at := range pieces {
				if _, err := f.ReadAt(buf, at); err != nil && !errors.Is(err, io.EOF) {
					failed = err
				}
			}
			errs <- failed
		}()
	}
	for at := int64(0); at < info.Size(); at += piece {
		pieces <- at
	}
	close(pieces)
	for range readers {
		err = errors.Join(err, <-errs)
	}
	return time.Since(began), err
}

// awaitLine waits until a line of the log has a text.
func (p *process) awaitLine(text string, began time.Time) error {
	for !slices.ContainsFunc(p.log(), func(l string) bool { return strings.Contains(l, text) }) {
		if time.Since(began) > patience {
			return fmt.Errorf("no %q\n%s", text, strings.Join(p.log(), "\n"))
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// memory has two shards load halves of a model, one from a file of its own and one
// through its store, and compares the most memory that they take for themselves, or
// lock, with the tensors that they load.
func (b *bench) memory(ctx context.Context, path string) error {
	n := &nodes{b: b, secret: filepath.Join(b.dir, "secret-large"), source: path, watch: true, folder: "large-"}
	if out, err := exec.Command(b.shoal, "secret", n.secret).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	defer n.stop()
	n.extra = map[string][]string{"s0": {"--models=" + filepath.Dir(path)}, "s1": {"--models="}}
	if err := n.up(ctx, 2, "0-15=s0", "16-31=s1"); err != nil {
		return err
	}
	for i, how := range []string{"file", "store"} {
		p := n.shards[i]
		tensors := p.loaded()
		if tensors == 0 {
			return fmt.Errorf("shard %d has loaded nothing", i)
		}
		over := float64(p.peak()) - 1.05*float64(tensors)
		fmt.Printf("  from its %s: %.0f MiB of tensors, at most %.0f MiB anonymous or locked\n", how, float64(tensors)/(1<<20), float64(p.peak())/(1<<20))
		b.note("load_memory_over_mib_"+how, over/(1<<20), "MiB more than the tensors and 5 %", 1)
	}
	return nil
}

// loaded adds up the bytes of the stages that a process says it has loaded.
func (p *process) loaded() (bytes int64) {
	for _, line := range p.log() {
		var said struct {
			Msg   string
			Bytes int64
		}
		if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "stage loaded" {
			bytes += said.Bytes
		}
	}
	return bytes
}

// peak is the most memory seen.
func (p *process) peak() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.most
}

// observe looks, until the process ends, how much memory is its own or locked.
func (p *process) observe() {
	for {
		own, err := ownMemory(p.cmd.Process.Pid)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.most = max(p.most, own)
		p.mu.Unlock()
		time.Sleep(5 * time.Millisecond)
	}
}

// ownMemory is what of a process's memory is no file's, and what it has locked.
func ownMemory(pid int) (bytes int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		if name == "RssAnon" || name == "RssShmem" || name == "VmLck" {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0, err
			}
			bytes += kib << 10
		}
	}
	if bytes == 0 {
		return 0, errors.New("the process has ended")
	}
	return bytes, nil
}
