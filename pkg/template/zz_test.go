package template_test
import ("testing";"runtime";"time";"fmt";"strings";"sync/atomic";"github.com/shoal-llm/shoal/pkg/template")
func TestZZ(t *testing.T) {
	srcs := map[string]string{
		"doubling list": "{% set ns = namespace(s=[1, 2]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
		"shared cmp": "{% set a = namespace(s=[1], t=[1]) %}{% for i in range(60) %}{% set a.s = [a.s, a.s] %}{% set a.t = [a.t, a.t] %}{% endfor %}{{ a.s == a.t }}",
		"nested loops": "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}",
		"append": "{% set l = [] %}{% for i in range(99999) %}{% for j in range(99999) %}{% set _ = l.append([1,2,3,4]) %}{% endfor %}{% endfor %}",
		"keep lists": "{% set l = [] %}{% for i in range(99999) %}{% set _ = l.append(range(50000)) %}{% endfor %}",
		"keep strings": "{% set l = [] %}{% for i in range(99999) %}{% set _ = l.append('x' * 1000000) %}{% endfor %}",
		"big slice": "{% set s = 'x' * 4000000 %}{% for i in range(99999) %}{% set _ = s[::2] %}{% endfor %}",
		"big eq": "{% set s = 'x' * 4000000 %}{% set t = s ~ '' %}{% for i in range(99999) %}{% set _ = s == t %}{% endfor %}",
		"key": "{% set s = 'x' * 4000000 %}{% for i in range(99999) %}{% set _ = {}.get(s) %}{% endfor %}",
		"strip": "{% set s = 'x' * 200 %}{% set c = 'y' * 4000000 %}{% for i in range(99999) %}{% set _ = s.strip(c) %}{% endfor %}",
		"index": "{% set s = 'x' * 4000000 %}{% for i in range(99999) %}{% set _ = s[-1] %}{% endfor %}",
		"user big": "{% set s = messages[0].content %}{% for i in range(99999) %}{% set _ = s | upper %}{% endfor %}",
		"rsplit": "{% set s = 'x,' * 90000 %}{% for i in range(99) %}{% set _ = s.rsplit(',', 1) %}{% endfor %}",
		"unique": "{% set s = range(99999) %}{{ s | unique | list | length }}",
		"sort": "{% set s = range(99999) %}{% for i in range(99) %}{% set _ = s | sort %}{% endfor %}",
		"dict": "{% set d = {} %}{% for i in range(99999) %}{% set _ = d.update({i: [i]}) %}{% endfor %}",
		"macro deep": "{% macro m(n) %}{{ "+strings.Repeat("1 - ", 500)+"(m(n)|int) }}{% endmacro %}{{ m(1) }}",
		"compile": strings.Repeat("{% if messages %}x{% endif %}", 2040),
		"compile2": strings.Repeat("x", 1<<20),
		"tojson": "{% for i in range(99999) %}{% set _ = messages | tojson %}{% endfor %}",
		"find": "{% set s = 'x' * 4000000 %}{% for i in range(99999) %}{% set _ = s.find('xxxxxxxxxxxxxxxxxxxxy') %}{% endfor %}",
		"lower map": "{% set l = ['x' * 1000000] * 1000 %}{{ l | map('upper') | list | length }}",
	}
	for n, s := range srcs {
		runtime.GC()
		var m0 runtime.MemStats
		runtime.ReadMemStats(&m0)
		var peak atomic.Uint64
		stop := make(chan bool)
		done := make(chan bool)
		go func() { defer close(done); for { select { case <-stop: return; default: var m runtime.MemStats; runtime.ReadMemStats(&m); if m.HeapAlloc+m.StackInuse > peak.Load() { peak.Store(m.HeapAlloc+m.StackInuse) }; time.Sleep(2*time.Millisecond) } } }()
		t0 := time.Now()
		tm, err := template.Compile(s)
		tc := time.Since(t0)
		if err == nil { t0 = time.Now(); _, err = tm.Render(template.Input{Messages: chat(strings.Repeat("x", 1<<20))}) }
		d := time.Since(t0)
		close(stop); <-done
		fmt.Printf("%-14s compile %6.1fms render %6.1fms peak +%4d MiB  %.90v\n", n, float64(tc.Microseconds())/1e3, float64(d.Microseconds())/1e3, (int64(peak.Load())-int64(m0.HeapAlloc+m0.StackInuse))>>20, err)
	}
}
