package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// server is a `shoal up` in a process of its own, so that its CPU time can be
// told from the client's.
type server struct {
	cmd *exec.Cmd
	url string
}

// startLimit is how long a server may take until it can answer.
const startLimit = time.Minute

// startServer runs the program and waits until it can answer with a model, one
// of the folder models or an embedded one.
func startServer(ctx context.Context, program, models, model string, threads, stages int) (*server, error) {
	c := exec.CommandContext(ctx, program, "up", model, "--models", models, "--listen", "127.0.0.1:0", "--log-level", "error",
		"--threads", strconv.Itoa(threads), "--stages", strconv.Itoa(stages))
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 10 * time.Second
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	late := time.AfterFunc(startLimit, func() { _ = c.Process.Kill() })
	defer late.Stop()
	s := &server{cmd: c}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if at := strings.Index(lines.Text(), "http://"); s.url == "" && at >= 0 {
			s.url = strings.TrimSpace(lines.Text()[at:])
		}
		if strings.Contains(lines.Text(), "ready in") {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%s up ended before it was ready: %w", program, s.stop())
}

func (s *server) stop() error {
	_ = s.cmd.Process.Signal(os.Interrupt)
	return s.cmd.Wait()
}

// cpuTime returns the CPU time that a process has used, in ticks of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// proc(5): the name, field 2, ends at the last parenthesis; user and system
	// time are fields 14 and 15.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const tick = 10 * time.Millisecond
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// answer is what a client saw of one answer.
type answer struct {
	prompt, tokens int
	decode         time.Duration // from the first token to the last
}

// rate returns tokens a second after the first.
func (a answer) rate() float64 { return float64(a.tokens-1) / a.decode.Seconds() }

// ask has the server answer a question with exactly n tokens over server-sent
// events. stop are the ids that must not end the answer before.
func (s *server) ask(ctx context.Context, n int, stop []int32) (answer, error) {
	never := map[string]int{}
	for _, id := range stop {
		never[strconv.Itoa(int(id))] = -100
	}
	body, err := json.Marshal(map[string]any{
		"messages":   []map[string]string{{"role": "user", "content": "Tell me a long story about a fox and a hen."}},
		"max_tokens": n, "temperature": 0, "logit_bias": never,
		"stream": true, "stream_options": map[string]bool{"include_usage": true},
	})
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answer{}, fmt.Errorf("the server answers %s", resp.Status)
	}
	a, err := readAnswer(resp)
	if err == nil && a.tokens != n {
		err = fmt.Errorf("the answer has %d tokens, not %d", a.tokens, n)
	}
	return a, err
}

// readAnswer reads the events of an answer to the end.
func readAnswer(resp *http.Response) (answer, error) {
	var a answer
	var first, last time.Time
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok || bytes.Equal(data, []byte("[DONE]")) {
			continue
		}
		var chunk struct {
			Choices []struct {
				Delta struct {
					Content string `json:"content"`
				} `json:"delta"`
			} `json:"choices"`
			Usage *struct {
				Prompt     int `json:"prompt_tokens"`
				Completion int `json:"completion_tokens"`
			} `json:"usage"`
		}
		if err := json.Unmarshal(data, &chunk); err != nil {
			return a, fmt.Errorf("read event: %w", err)
		}
		if len(chunk.Choices) > 0 && chunk.Choices[0].Delta.Content != "" {
			if last = time.Now(); first.IsZero() {
				first = last
			}
		}
		if chunk.Usage != nil {
			a.prompt, a.tokens = chunk.Usage.Prompt, chunk.Usage.Completion
		}
	}
	a.decode = last.Sub(first)
	return a, lines.Err()
}
