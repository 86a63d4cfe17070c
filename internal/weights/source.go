package weights

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// ErrSource says that a text names no source of a model.
var ErrSource = errors.New("not a source of a model")

// Source is where a model comes from, as an operator names it.
type Source struct {
	Text string // canonical: the same source is the same text

	url  string // of a file
	hub  hubRef // of a model hub
	pip  string // requirement of a Python package
	name string // of the file, or of the repository
}

// hubRef names a repository of a model hub, or a file in it.
type hubRef struct{ repo, file, revision string }

var (
	repoPart    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$`)
	revisionRef = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$`)
	requirement = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}==[A-Za-z0-9][A-Za-z0-9.!+_-]{0,63}$`)
)

// IsSource reports whether a text names something to be fetched, by its beginning.
func IsSource(text string) bool {
	for _, scheme := range []string{"hf://", "https://", "http://", "pip:"} {
		if strings.HasPrefix(text, scheme) {
			return true
		}
	}
	return false
}

// ParseSource reads https://…, hf://org/repo[/file][@revision] or pip:package==version.
func ParseSource(text string) (Source, error) {
	bad := func(why string) (Source, error) {
		return Source{}, fmt.Errorf("%w: %.200q: %s", ErrSource, text, why)
	}
	switch {
	case strings.HasPrefix(text, "pip:"):
		want := strings.TrimPrefix(text, "pip:")
		if !requirement.MatchString(want) {
			return bad("want pip:PACKAGE==VERSION")
		}
		name, _, _ := strings.Cut(want, "==")
		return Source{Text: text, pip: want, name: name}, nil
	case strings.HasPrefix(text, "hf://"):
		ref, err := parseHub(strings.TrimPrefix(text, "hf://"))
		if err != nil {
			return bad(err.Error())
		}
		name := path.Base(ref.repo)
		if ref.file != "" {
			name = ref.file
		}
		return Source{Text: text, hub: ref, name: name}, nil
	case strings.HasPrefix(text, "https://"), strings.HasPrefix(text, "http://"):
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
			return bad("want https://HOST/PATH without a password")
		}
		name := path.Base(u.Path)
		if name == "/" || name == "." {
			return bad("want the address of a file")
		}
		return Source{Text: text, url: text, name: name}, nil
	}
	return bad("want https://…, hf://ORG/REPO[/FILE][@REVISION] or pip:PACKAGE==VERSION")
}

func parseHub(text string) (r hubRef, err error) {
	rest, revision, pinned := strings.Cut(text, "@")
	if r.revision = "main"; pinned {
		r.revision = revision
	}
	parts := strings.SplitN(rest, "/", 3)
	if len(parts) < 2 || !repoPart.MatchString(parts[0]) || !repoPart.MatchString(parts[1]) || strings.Contains(rest, "..") {
		return r, errors.New("want hf://ORG/REPO[/FILE][@REVISION]")
	}
	r.repo = parts[0] + "/" + parts[1]
	if len(parts) == 3 {
		if r.file = parts[2]; r.file == "" || path.Clean(r.file) != r.file || strings.HasPrefix(r.file, "/") {
			return r, errors.New("the file's name leads elsewhere")
		}
	}
	if !revisionRef.MatchString(r.revision) || strings.Contains(r.revision, "..") {
		return r, errors.New("no such revision can be")
	}
	return r, nil
}

// Name is what the model is called: the file's name without its ending.
func (s Source) Name() string {
	name := path.Base(s.name)
	if i := strings.Index(name, "-00001-of-"); i > 0 {
		name = name[:i]
	}
	return strings.TrimSuffix(strings.TrimSuffix(name, ".gguf"), ".safetensors")
}

//go:embed catalogue.txt
var builtIn string

// Catalogue are short names of sources.
type Catalogue map[string]string

// LoadCatalogue returns the names that the program brings along and those of a file,
// which win. A file that is not there adds none.
func LoadCatalogue(file string) (Catalogue, error) {
	c := Catalogue{}
	if err := c.read(builtIn); err != nil {
		return nil, err
	}
	if file == "" {
		return c, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = c.read(string(text))
	}
	if err != nil {
		return nil, fmt.Errorf("read the catalogue %s: %w", file, err)
	}
	return c, nil
}

// read adds lines of a name and a source; # begins a comment.
func (c Catalogue) read(text string) error {
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 2 || strings.ContainsAny(fields[0], "/\\:@") {
			return fmt.Errorf("line %d: want a name and a source", n)
		}
		if _, err := ParseSource(fields[1]); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		c[fields[0]] = fields[1]
	}
	return lines.Err()
}

// Names returns the names in order.
func (c Catalogue) Names() []string { return slices.Sorted(maps.Keys(c)) }
