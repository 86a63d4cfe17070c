// Run diagnostic tests
const diagnostics = await WebPlatformAccelerator.runDiagnostics({
  features: ["webgpu", "webnn", "wasm", "streaming"],
  reportLevel: "detailed"
});

// Output diagnostics
console.log("Diagnostic Results:", diagnostics);

// Check for issues
if (diagnostics.issues.length > 0) {
  console.warn("Issues detected:", diagnostics.issues);
  
  // Apply automatic fixes where possible
  if (diagnostics.fixableIssues.length > 0) {
    const fixes = await WebPlatformAccelerator.applyAutomaticFixes(diagnostics.fixableIssues);
    console.log("Applied fixes:", fixes);
  }
  
  // Show recommendations for manual fixes
  for (const issue of diagnostics.manualFixIssues) {
    console.warn(`Issue: ${issue.description}`);
    console.warn(`Recommended action: ${issue.recommendedAction}`);
  }
}

// Output system information
console.log("Browser:", diagnostics.browserInfo);
console.log("WebGPU Support:", diagnostics.webgpuSupport);
console.log("WebNN Support:", diagnostics.webnnSupport);
console.log("WebAssembly Support:", diagnostics.wasmSupport);
console.log("Estimated Available Memory:", diagnostics.estimatedAvailableMemoryMB, "MB");
