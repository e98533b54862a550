package config

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sallyport"
)

const pipelinePath = "pipeline.yaml"

// stages makes the configuration of every stage of pipeline.yaml and the
// upstreams.
func (l *loader) stages() map[sallyport.Stage]sallyport.StageConfig {
	var f pipelineFile
	d, exists := l.document(pipelinePath, &f)
	if exists && (d == nil || d.root == nil) {
		l.blind = true
	}
	configs := map[sallyport.Stage]sallyport.StageConfig{}
	for _, stage := range sallyport.Stages {
		c := sallyport.StageConfig{Stage: stage, Upstreams: map[sallyport.UpstreamID]sallyport.StageUpstream{}}
		for id, u := range l.upstreams {
			if u != nil {
				c.Upstreams[id] = u.stages[stage]
			}
		}
		if s, ok := f.Stages[stage]; ok {
			c.Policies, _ = l.bundle(d, s.Policies, "stages", stage.String(), "policies")
			c.ExplicitRuns = s.ExplicitRuns
		}
		configs[stage] = c
	}
	if d != nil {
		l.done(d)
	}
	return configs
}

var policyForm = regexp.MustCompile(`^policies/[^/]+\.cedar$`)

// readPolicies reads every policy there is, so that one nobody lists is noticed.
func (l *loader) readPolicies() {
	for _, name := range l.list("policies", ".cedar", ".cedar.txt", ".ceder") {
		name = path.Join("policies", name)
		if text, _ := l.text(name, maxFile); text != nil {
			l.policies[name] = string(text)
		}
	}
}

// bundle is the policies that a document lists under a key, sorted by path.
func (l *loader) bundle(d *document, paths []policyPath, key ...string) (files []sallyport.PolicyFile, sound bool) {
	files, sound = []sallyport.PolicyFile{}, true
	listed := map[string]bool{}
	for i, p := range paths {
		name := string(p)
		at := d.value(append(key, strconv.Itoa(i))...)
		text, ok := l.policies[name]
		switch {
		case name == "": // said by decode
			sound = false
		case listed[name]:
			d.problem(at, "leave one of them out", "%s is listed twice", quote(name))
		case !ok && !policyForm.MatchString(name):
			d.problem(at, suggest(name, slices.Collect(maps.Keys(l.policies)), "policies"), "%s is no policy: they are policies/<name>.cedar", quote(name))
			sound = false
		case !ok:
			d.problem(at, suggest(name, slices.Collect(maps.Keys(l.policies)), "policies"), "there is no file %s", quote(name))
			sound = false
		default:
			files = append(files, sallyport.PolicyFile{Path: name, Text: text})
		}
		listed[name], l.used[name] = true, true
	}
	slices.SortFunc(files, func(a, b sallyport.PolicyFile) int { return strings.Compare(a.Path, b.Path) })
	return files, sound
}

// unused finds policies that nothing lists. A policy that looks as if it were
// enforced and is not is worse than none.
func (l *loader) unused() {
	if l.blind {
		return
	}
	for name := range l.policies {
		if !l.used[name] {
			l.add(Problem{
				Path:    name,
				Message: "no agent and no stage lists this policy, so it would not be enforced",
				Hint:    "list it under policies in agents/*.yaml or pipeline.yaml, or move it out of policies/",
			})
		}
	}
}

// testFiles are the policy tests. Package policy reads them.
func (l *loader) testFiles() []File {
	files := []File{}
	for _, name := range l.list("policies", ".test.yaml", ".test.yml", "_test.yaml") {
		name = path.Join("policies", name)
		if text, _ := l.text(name, maxFile); text != nil {
			files = append(files, File{Path: name, Text: string(text)})
		}
	}
	return files
}
