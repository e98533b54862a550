package app

import (
	"os"

	"sallyport"
	"sallyport/internal/config"
	"sallyport/internal/policy"
)

// PolicyTests runs the policy tests of a project directory, in the order of the
// files and stages. Every test meets the policies of its agent's release and of
// its stage.
func PolicyTests(dir string) ([]policy.TestResult, error) {
	project, problems := config.Load(os.DirFS(dir))
	if len(problems) > 0 {
		return nil, problems
	}
	var results []policy.TestResult
	for _, file := range project.TestFiles {
		tests, problems := policy.ParseTests(file.Path, []byte(file.Text))
		if len(problems) > 0 {
			return results, &problems[0]
		}
		var release *sallyport.Release
		for i := range project.Releases {
			if project.Releases[i].Agent == tests.Agent {
				release = &project.Releases[i]
			}
		}
		if release == nil {
			return results, sallyport.Refuse(sallyport.BadConfig, file.Path+" tests agent "+string(tests.Agent)+", which no file of agents/ declares", "correct its agent")
		}
		for _, stage := range sallyport.Stages {
			c := project.Stages[stage]
			set, problems := policy.Compile(policy.Inputs(release, &c))
			if len(problems) > 0 {
				return results, &problems[0]
			}
			of := *tests
			of.Tests = nil
			for _, t := range tests.Tests {
				if t.Query.Stage == stage {
					of.Tests = append(of.Tests, t)
				}
			}
			base := policy.Query{Principal: sallyport.Principal{Agent: release.Agent, Release: release.ID}, Tier: release.Tier, Owner: release.Owner}
			results = append(results, of.Run(set, base, pinOf(release, &c))...)
		}
	}
	return results, nil
}

// PolicySchema is the Cedar schema that policies over the tools of these upstreams
// are checked against, or over those of all upstreams of a project directory. It
// needs neither agents nor policies to be right.
func PolicySchema(dir string, upstreams []sallyport.UpstreamID) (string, error) {
	if len(upstreams) == 0 {
		all, err := UpstreamIDs(dir)
		if err != nil {
			return "", err
		}
		upstreams = all
	}
	of := sallyport.Release{Servers: map[sallyport.UpstreamID]sallyport.PinnedServer{}}
	for _, id := range upstreams {
		u, err := LoadUpstream(dir, id)
		if err != nil {
			return "", err
		}
		of.Tools, of.Servers[id] = append(of.Tools, u.Tools...), sallyport.PinnedServer{}
	}
	tools, _ := policy.Inputs(&of, &sallyport.StageConfig{})
	return policy.SchemaText(tools)
}

func pinOf(r *sallyport.Release, c *sallyport.StageConfig) policy.Pin {
	return func(q *policy.Query) (upstream, tool sallyport.Digest) {
		for i := range r.Tools {
			if t := &r.Tools[i]; t.Upstream == q.Upstream && t.UpstreamName == q.Tool {
				tool = t.Digest
			}
		}
		return c.Upstreams[q.Upstream].Identity, tool
	}
}
