package systemtest

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"
)

var (
	adminLine     = regexp.MustCompile(`Admin\s+(http://\S+)`)
	acceptedDraft = regexp.MustCompile(`shoal_drafts_total\{[^}]*"accepted"[^}]*\} (\d+)`)
)

// TestDraftModel: with a draft model answers stay the same, at any temperature, over
// both stages of a pipeline, and guesses of a model that is always right hold.
func TestDraftModel(t *testing.T) {
	ctx := within(t, 6*hang)
	ask := func(args ...string) (texts []string, held int) {
		u := startUp(ctx, t, nil, append(args, "--listen=127.0.0.1:0")...)
		for _, temperature := range []float64{0, 0.8} {
			eventually(ctx, t, "no answer", func() error {
				text, end, err := u.dial(ctx, t).ask(ctx, object{"prompt": "A boat on a lake", "temperature": temperature, "seed": 11, "maxTokens": 120}, func() {})
				if err == nil && end.Type != "complete" { // the model is loading
					err = fmt.Errorf("%+v", end)
				}
				if err == nil {
					texts = append(texts, text)
				}
				return err
			})
		}
		resp, err := http.Get(adminLine.FindStringSubmatch(u.out.String())[1])
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		metrics, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if m := acceptedDraft.FindSubmatch(metrics); m != nil {
			held, _ = strconv.Atoi(string(m[1]))
		}
		return texts, held
	}
	want, alone := ask("tiny")
	got, held := ask("tiny", "--draft=tiny")
	for i := range want {
		if want[i] == "" || got[i] != want[i] {
			t.Errorf("answer %d with a draft model %q, without %q", i, got[i], want[i])
		}
	}
	if held <= alone {
		t.Errorf("%d guesses held with a draft model, %d without", held, alone)
	}
}
