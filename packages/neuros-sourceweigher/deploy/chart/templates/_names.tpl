{{- define "sourceweigher.labels" -}}
app.kubernetes.io/name: sourceweigher
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "sourceweigher.selector" -}}
app.kubernetes.io/name: sourceweigher
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
