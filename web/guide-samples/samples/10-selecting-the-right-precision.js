// Select precision based on device capabilities and model
function selectOptimalPrecision(modelType, memoryConstraint) {
  // Start with 4-bit as a reasonable default
  let precision = "int4";
  
  if (memoryConstraint === "severe") {
    // For extremely limited memory (e.g., low-end devices)
    precision = "int2";
  } else if (memoryConstraint === "moderate") {
    // For moderately limited memory
    precision = "int3";
  } else if (modelType === "vision" || modelType === "audio") {
    // Vision and audio models often need higher precision
    precision = "int8";
  }
  
  return precision;
}

// Example usage
const deviceMemory = navigator.deviceMemory || 4; // GB of RAM, fallback to 4GB
const memoryConstraint = deviceMemory <= 2 ? "severe" : 
                         deviceMemory <= 4 ? "moderate" : "none";
                         
const precision = selectOptimalPrecision("text", memoryConstraint);
console.log(`Selected precision: ${precision}`);
