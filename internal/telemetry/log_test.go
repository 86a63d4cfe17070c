package telemetry

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
)

func TestLoggerWritesJSONOffTerminals(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	var out strings.Builder
	log := Logger(&out, slog.LevelInfo, false).With("node", "nas").WithGroup("g")
	log.Debug("not seen")
	log.InfoContext(Extract(context.Background(), parent), "stage ready", "layers", 4)
	var line struct {
		Msg, Node string
		G         struct {
			Layers  int
			TraceID string `json:"trace_id"`
		}
	}
	if err := json.Unmarshal([]byte(out.String()), &line); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	if line.Msg != "stage ready" || line.Node != "nas" || line.G.Layers != 4 || line.G.TraceID != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("line %+v", line)
	}
}

func TestTerminals(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if isTerminal(file) || isTerminal(&strings.Builder{}) {
		t.Error("a file or a buffer is taken for a terminal")
	}
	device, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no character device here")
	}
	defer device.Close()
	if _, ok := Logger(device, slog.LevelInfo, true).Handler().(traced).Handler.(*slog.JSONHandler); !ok {
		t.Error("json is asked for and not given")
	}
}
