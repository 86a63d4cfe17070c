package template

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxBlocks = 64 // how deep blocks nest
	maxParams = 64 // parameters of a macro
)

// rewriter turns the pieces of a template into the source of the engine. All text
// becomes outputs, so that the white space rules of the engine have nothing to do.
type rewriter struct {
	out    []string
	blocks []block
	loops  int
}

// block is an open statement.
type block struct {
	word string // "for", "if", ...
	line int

	before, start int      // for: places in out before the loop and at the start of its body
	number        int      // for: distinguishes the saved variables
	targets       []string // for: variables of the loop
	sets          []string // for: other variables that its body sets
	filter        string   // filter: name
}

// rewrite checks a template and returns it in the guarded form.
func rewrite(source string) (string, error) {
	if !utf8.ValidString(source) {
		return "", fmt.Errorf("%w: not UTF-8", ErrTemplate)
	}
	if strings.IndexFunc(source, isMarked) >= 0 {
		return "", fmt.Errorf("%w: characters of a plane above the third", ErrTemplate)
	}
	pieces, err := scan(source)
	if err != nil {
		return "", err
	}
	w := rewriter{}
	for _, p := range pieces {
		if err := w.piece(p); err != nil {
			return "", fmt.Errorf("line %d: %w", p.line, err)
		}
	}
	if n := len(w.blocks); n > 0 {
		b := w.blocks[n-1]
		return "", fmt.Errorf("%w: line %d: unclosed %s", ErrTemplate, b.line, b.word)
	}
	return strings.Join(w.out, ""), nil
}

func (w *rewriter) emit(format string, args ...any) {
	w.out = append(w.out, fmt.Sprintf(format, args...))
}

func (w *rewriter) piece(p piece) error {
	if p.kind == pieceText {
		w.emit("{{ __out(%s) }}", quote(p.text))
		return nil
	}
	lexemes, err := lex(p.text)
	if err != nil {
		return err
	}
	in := parser{lexemes: lexemes}
	if p.kind == pieceOutput {
		value, err := in.expression()
		if err != nil {
			return err
		}
		w.emit("{{ __out(%s) }}", value)
	} else if err := w.statement(&in, p.line); err != nil {
		return err
	}
	if in.peek().kind != lexEnd {
		return in.unexpected("the tag should end here")
	}
	return nil
}

// statement reads one statement and writes it.
func (w *rewriter) statement(in *parser, line int) error {
	word := in.peek().text
	in.at++
	switch word {
	case "if", "elif":
		return w.branch(in, word, line)
	case "else":
		return w.otherwise()
	case "for":
		return w.loop(in, line)
	case "set":
		return w.set(in, line)
	case "macro":
		return w.macro(in, line)
	case "call":
		return w.callBlock(in, line)
	case "filter":
		return w.filterBlock(in, line)
	case "generation":
		return w.open(block{word: word, line: line})
	case "break", "continue":
		return w.jump(word)
	case "endif", "endfor", "endset", "endmacro", "endcall", "endfilter", "endgeneration":
		return w.close(strings.TrimPrefix(word, "end"))
	}
	return fmt.Errorf("%w: unknown statement %.40q", ErrTemplate, word)
}

func (w *rewriter) open(b block) error {
	if w.blocks = append(w.blocks, b); len(w.blocks) > maxBlocks {
		return fmt.Errorf("%w: blocks nested more than %d deep", ErrBudget, maxBlocks)
	}
	return nil
}

// close ends the innermost block, which must be of the given kind.
func (w *rewriter) close(word string) error {
	n := len(w.blocks)
	if n == 0 || w.blocks[n-1].word != word {
		return fmt.Errorf("%w: end%s without %s", ErrTemplate, word, word)
	}
	b := w.blocks[n-1]
	w.blocks = w.blocks[:n-1]
	switch word {
	case "for":
		w.restoreSets(b)
	case "macro", "call":
		w.emit("{%% set __t = __leave() %%}")
	case "filter":
		w.emit("{%% endset %%}{{ __out(__filter(%s, __block)) }}", quote(b.filter))
		return nil
	case "generation":
		return nil
	}
	w.emit("{%% end%s %%}", word)
	return nil
}

func (w *rewriter) branch(in *parser, word string, line int) error {
	condition, err := in.expression()
	if err != nil {
		return err
	}
	if word == "if" {
		err = w.open(block{word: "if", line: line})
	} else if n := len(w.blocks); n == 0 || w.blocks[n-1].word != "if" {
		err = fmt.Errorf("%w: elif without if", ErrTemplate)
	}
	w.emit("{%% %s %s %%}", word, condition)
	return err
}

func (w *rewriter) otherwise() error {
	if n := len(w.blocks); n == 0 || w.blocks[n-1].word != "if" && w.blocks[n-1].word != "for" {
		return fmt.Errorf("%w: else without if or for", ErrTemplate)
	}
	w.emit("{%% else %%}")
	return nil
}

// loop writes a for. The body begins with a check of the budget.
func (w *rewriter) loop(in *parser, line int) error {
	targets, err := loopTargets(in)
	if err != nil {
		return err
	}
	if !in.acceptName("in") {
		return in.unexpected("want in")
	}
	items, err := in.or()
	if err != nil {
		return err
	}
	variable, unpack := targets[0], ""
	if len(targets) > 1 {
		variable = "__each"
		in.renamed = map[string]string{}
		for i, name := range targets {
			value := call("__item", variable, strconv.Itoa(i))
			in.renamed[name] = value
			unpack += fmt.Sprintf("{%% set %s = %s %%}", name, value)
		}
	}
	filter := ""
	if in.acceptName("if") {
		condition, err := in.expression()
		if err != nil {
			return err
		}
		filter = " if " + condition
	}
	w.loops++
	b := block{word: "for", line: line, number: w.loops, targets: targets, before: len(w.out)}
	w.emit("") // place of the saved variables
	w.emit("{%% for %s in %s%s %%}{%% set __t = __tick() %%}%s",
		variable, call("__items", items, strconv.Itoa(len(targets))), filter, unpack)
	b.start = len(w.out)
	w.emit("")
	return w.open(b)
}

// loopTargets reads the variables of a loop, with or without parentheses.
func loopTargets(in *parser) ([]string, error) {
	parenthesis := in.accept("(")
	var targets []string
	for len(targets) == 0 || in.accept(",") {
		name, err := in.name()
		if err != nil {
			return nil, err
		}
		targets = append(targets, name)
	}
	if parenthesis {
		return targets, in.expect(")")
	}
	return targets, nil
}

// restoreSets makes every iteration begin with the variables as they were before
// the loop, as scopes of Jinja do; the engine has one scope for all iterations.
func (w *rewriter) restoreSets(b block) {
	var save, restore strings.Builder
	for i, name := range b.sets {
		saved := fmt.Sprintf("__s%d_%d", b.number, i)
		fmt.Fprintf(&save, "{%% set %s = %s %%}", saved, name)
		fmt.Fprintf(&restore, "{%% set %s = %s %%}", name, saved)
	}
	w.out[b.before], w.out[b.start] = save.String(), restore.String()
}

// noteSet remembers that the innermost scope sets a variable.
func (w *rewriter) noteSet(name string) {
	for i := len(w.blocks) - 1; i >= 0; i-- {
		b := &w.blocks[i]
		switch b.word {
		case "macro", "call":
			return
		case "for":
			if !slices.Contains(b.sets, name) && !slices.Contains(b.targets, name) {
				b.sets = append(b.sets, name)
			}
			return
		}
	}
}

func (w *rewriter) set(in *parser, line int) error {
	name, err := in.name()
	if err != nil {
		return err
	}
	target := name
	if in.accept(".") {
		field, err := in.name()
		if err != nil {
			return err
		}
		target += "." + field
	} else {
		w.noteSet(name)
	}
	if in.peek().kind == lexEnd {
		if target != name {
			return fmt.Errorf("%w: set block of an attribute", ErrTemplate)
		}
		w.emit("{%% set %s %%}", target)
		return w.open(block{word: "set", line: line})
	}
	if err := in.expect("="); err != nil {
		return err
	}
	value, err := in.expression()
	w.emit("{%% set %s = %s %%}", target, value)
	return err
}

// macro writes a macro. Defaults become statements of its body.
func (w *rewriter) macro(in *parser, line int) error {
	name, err := in.name()
	if err != nil {
		return err
	}
	if err := in.expect("("); err != nil {
		return err
	}
	var params []string
	var defaults strings.Builder
	for !in.accept(")") {
		param, err := in.name()
		if err != nil {
			return err
		}
		if params = append(params, param); len(params) > maxParams {
			return fmt.Errorf("%w: macro with more than %d parameters", ErrBudget, maxParams)
		}
		if in.accept("=") {
			value, err := in.expression()
			if err != nil {
				return err
			}
			fmt.Fprintf(&defaults, "{%% if %s is undefined %%}{%% set %s = %s %%}{%% endif %%}", param, param, value)
		}
		if !in.accept(",") && !in.isSymbol(")") {
			return in.unexpected("want , or )")
		}
	}
	w.noteSet(name)
	w.emit("{%% macro %s(%s) %%}{%% set __t = __enter() %%}%s", name, strings.Join(params, ", "), defaults.String())
	return w.open(block{word: "macro", line: line})
}

// callBlock writes a call of a macro with a body.
func (w *rewriter) callBlock(in *parser, line int) error {
	var params []string
	if in.accept("(") {
		for !in.accept(")") {
			name, err := in.name()
			if err != nil {
				return err
			}
			params = append(params, name)
			in.accept(",")
		}
	}
	name, err := in.name()
	if err != nil {
		return err
	}
	if err := in.expect("("); err != nil {
		return err
	}
	target, err := in.callOf(name)
	if err != nil {
		return err
	}
	w.emit("{%% call(%s) %s %%}{%% set __t = __enter() %%}", strings.Join(params, ", "), target)
	return w.open(block{word: "call", line: line})
}

// filterBlock writes a filter over a body: the body is kept in a variable first.
func (w *rewriter) filterBlock(in *parser, line int) error {
	name, err := in.name()
	if err != nil {
		return err
	}
	if _, ok := filters[name]; !ok {
		return fmt.Errorf("%w: unknown filter %.40q", ErrTemplate, name)
	}
	w.emit("{%% set __block %%}")
	return w.open(block{word: "filter", line: line, filter: name})
}

// jump writes a break or a continue, which must be inside a loop of the same
// body.
func (w *rewriter) jump(word string) error {
	for i := len(w.blocks) - 1; i >= 0; i-- {
		switch w.blocks[i].word {
		case "for":
			w.emit("{%% %s %%}", word)
			return nil
		case "if", "generation":
		default:
			return fmt.Errorf("%w: %s outside of a loop", ErrTemplate, word)
		}
	}
	return fmt.Errorf("%w: %s outside of a loop", ErrTemplate, word)
}
