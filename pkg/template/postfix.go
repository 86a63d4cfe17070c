package template

import (
	"fmt"
	"strings"
)

// postfix reads a primary and what follows it: attributes, items, calls, filters
// and tests.
func (p *parser) postfix() (string, error) {
	value, err := p.primary()
	for err == nil {
		var next func(string) (string, error)
		switch {
		case p.accept("."):
			next = p.attribute
		case p.accept("["):
			next = p.subscript
		case p.accept("("):
			next = func(callee string) (string, error) { return p.callOf("__invoke", callee) }
		case p.accept("|"):
			next = p.filter
		case p.acceptName("is"):
			next = p.test
		default:
			return value, nil
		}
		if err = p.link(); err == nil {
			value, err = next(value)
		}
	}
	return "", err
}

// attribute reads what follows a dot: a name, a method call, or an index.
func (p *parser) attribute(object string) (string, error) {
	l := p.peek()
	p.at++
	switch {
	case l.kind == lexNumber && !strings.Contains(l.text, "."):
		return call("__item", object, l.text), nil
	case l.kind != lexName:
		p.at--
		return "", p.unexpected("want an attribute")
	case p.accept("("):
		return p.callOf("__method", quote(l.text), object)
	}
	return call("__attribute", object, quote(l.text)), nil
}

// subscript reads an item or a slice up to the closing bracket.
func (p *parser) subscript(object string) (string, error) {
	bounds := [3]string{"none", "none", "none"}
	slice, n := false, 0
	for !p.accept("]") {
		if p.accept(":") {
			slice = true
			if n++; n == len(bounds) {
				return "", p.unexpected("a slice has three parts")
			}
			continue
		}
		var err error
		if bounds[n], err = p.expression(); err != nil {
			return "", err
		}
		if !p.isSymbol("]", ":") {
			return "", p.unexpected("want ] or :")
		}
	}
	if slice {
		return call("__slice", object, bounds[0], bounds[1], bounds[2]), nil
	}
	return call("__item", object, bounds[0]), nil
}

// callOf reads arguments up to the closing parenthesis and calls a function with
// the leading ones and these.
func (p *parser) callOf(function string, leading ...string) (string, error) {
	args, err := p.arguments()
	return call(function, append(leading, args...)...), err
}

// arguments reads positional and named arguments up to the closing parenthesis.
func (p *parser) arguments() ([]string, error) {
	var args []string
	for !p.accept(")") {
		name := ""
		if p.peek().kind == lexName && p.at+1 < len(p.lexemes) && p.lexemes[p.at+1] == (lexeme{lexSymbol, "="}) {
			name = p.peek().text + "="
			p.at += 2
		}
		value, err := p.expression()
		if err != nil {
			return nil, err
		}
		args = append(args, name+value)
		if !p.accept(",") && !p.isSymbol(")") {
			return nil, p.unexpected("want , or )")
		}
	}
	return args, nil
}

func (p *parser) filter(value string) (string, error) {
	name, err := p.name()
	if err != nil {
		return "", err
	}
	if _, ok := filters[name]; !ok {
		return "", fmt.Errorf("%w: unknown filter %.40q", ErrTemplate, name)
	}
	if p.accept("(") {
		return p.callOf("__filter", quote(name), value)
	}
	return call("__filter", quote(name), value), nil
}

// test reads what follows is: not, a name, and arguments with or without
// parentheses.
func (p *parser) test(value string) (string, error) {
	negated := p.acceptName("not")
	l := p.peek()
	if l.kind != lexName {
		return "", p.unexpected("want a test")
	}
	p.at++
	if _, ok := tests[l.text]; !ok {
		return "", fmt.Errorf("%w: unknown test %.40q", ErrTemplate, l.text)
	}
	var out string
	var err error
	switch next := p.peek(); {
	case p.accept("("):
		out, err = p.callOf("__test", quote(l.text), value)
	case next.kind == lexString || next.kind == lexNumber:
		var arg string
		arg, err = p.primary()
		out = call("__test", quote(l.text), value, arg)
	default:
		out = call("__test", quote(l.text), value)
	}
	if negated {
		out = "(not " + out + ")"
	}
	return out, err
}

// constants are the names of values.
var constants = map[string]string{
	"true": "true", "True": "true", "false": "false", "False": "false", "none": "none", "None": "none",
}

func (p *parser) primary() (string, error) {
	l := p.peek()
	switch l.kind {
	case lexString:
		text := ""
		for p.peek().kind == lexString { // neighbours are one literal
			text += p.peek().text
			p.at++
		}
		return quote(text), nil
	case lexNumber:
		if len(l.text) > 18 {
			return "", fmt.Errorf("%w: number %.40s is too long", ErrTemplate, l.text)
		}
		p.at++
		return l.text, nil
	case lexName:
		name, err := p.name()
		if c, ok := constants[name]; ok {
			return c, err
		}
		if value, ok := p.renamed[name]; ok {
			return value, err
		}
		return name, err
	}
	switch {
	case p.accept("("):
		return p.group()
	case p.accept("["):
		items, err := p.list("]")
		return "[" + strings.Join(items, ", ") + "]", err
	case p.accept("{"):
		return p.dictionary()
	}
	return "", p.unexpected("want a value")
}

// group reads a parenthesised expression or a tuple, which becomes a list.
func (p *parser) group() (string, error) {
	if p.accept(")") {
		return "[]", nil
	}
	first, err := p.expression()
	if err != nil {
		return "", err
	}
	if p.accept(")") {
		return first, nil
	}
	if err := p.expect(","); err != nil {
		return "", err
	}
	rest, err := p.list(")")
	return "[" + strings.Join(append([]string{first}, rest...), ", ") + "]", err
}

// list reads expressions with commas between them up to a closing symbol.
func (p *parser) list(end string) ([]string, error) {
	var items []string
	for !p.accept(end) {
		item, err := p.expression()
		if err != nil {
			return nil, err
		}
		items = append(items, item)
		if !p.accept(",") && !p.isSymbol(end) {
			return nil, p.unexpected("want , or " + end)
		}
	}
	return items, nil
}

func (p *parser) dictionary() (string, error) {
	var parts []string
	for !p.accept("}") {
		name, err := p.expression()
		if err != nil {
			return "", err
		}
		if err := p.expect(":"); err != nil {
			return "", err
		}
		value, err := p.expression()
		if err != nil {
			return "", err
		}
		parts = append(parts, name, value)
		if !p.accept(",") && !p.isSymbol("}") {
			return "", p.unexpected("want , or }")
		}
	}
	return call("__dictionary", parts...), nil
}
