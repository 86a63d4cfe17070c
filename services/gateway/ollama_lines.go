package gateway

import (
	"encoding/json"
	"net/http"
	"time"
)

// lineWriter writes newline-delimited JSON. Each write has a deadline: a client
// that reads nothing loses the stream.
type lineWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	begun   bool
}

func newLineWriter(w http.ResponseWriter, timeout time.Duration) *lineWriter {
	return &lineWriter{w: w, control: http.NewResponseController(w), timeout: timeout}
}

func (l *lineWriter) write(doc any) error {
	data, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/x-ndjson")
		l.w.Header().Set("Cache-Control", "no-store")
		l.w.WriteHeader(http.StatusOK)
	}
	if err := l.control.SetWriteDeadline(time.Now().Add(l.timeout)); err != nil {
		return err
	}
	if _, err := l.w.Write(append(data, '\n')); err != nil {
		return err
	}
	return l.control.Flush()
}

// fail answers with a status when nothing was sent yet, else with a line.
func (l *lineWriter) fail(p *problem) {
	if !l.begun {
		p.write(l.w)
		return
	}
	_ = l.write(ollamaError{p.message}) // nobody is left to tell
}

// close lifts the deadline, which would outlive this answer on its connection.
func (l *lineWriter) close() { _ = l.control.SetWriteDeadline(time.Time{}) }
